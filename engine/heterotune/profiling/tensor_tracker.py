"""What tensors are made while a piece of work runs, and which of them are alive when most is: the first time only.

A dispatch mode sees every tensor that an operation makes, forward and backward, in Python and in C++; it keeps weak
references to their storages, so it keeps nothing alive, and it hands every operation on as it came, so no bit changes.
It costs some microseconds an operation, which is why a run tracks each kind of work once and remembers the answer.
What an operation takes and gives back inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from heterotune.profiling.components import ACTIVATIONS, GATHERED_LAYERS
from heterotune.profiling.holdings import HOST

_GATHERING = "allgather"
_NO_BACKWARD = -1


@dataclass(frozen=True)
class Tracked:
    """What a piece of work needed beyond what there was before it.

    Attributes:
        at_peak: Kind of device -> component -> bytes, at the moment when the tensors on that device were most.
        freed_bytes: How much of it on the host was freed again when the work was done.
    """

    at_peak: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    freed_bytes: int = 0


class TensorTracker(TorchDispatchMode):
    """Use it as a context; `stop()` ends the watch early, what is alive then is followed until `result()`."""

    def __init__(self, making: str, modules: Mapping[nn.Module, str]) -> None:
        """Begin with nothing seen.

        Args:
            making: The component of what is made outside of modules and backward passes.
            modules: Component of what is made in the forward pass of a module.
        """
        super().__init__()
        self.making = making
        self._modules, self._inside = modules, []
        self._hooks: list[Any] = []
        self._alive: dict[tuple[str, str], int] = defaultdict(int)
        self._known: dict[int, tuple[weakref.ref[Any], str, str, int]] = {}
        self._most: dict[str, int] = defaultdict(int)
        self._at_peak: dict[str, dict[str, int]] = {}
        self._active = False

    def __enter__(self) -> TensorTracker:
        self._active = True
        for module, component in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(self._entering(component)))
            self._hooks.append(module.register_forward_hook(self._leaving, always_call=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """See no more operations."""
        if self._active:
            self._active = False
            for hook in self._hooks:
                hook.remove()
            super().__exit__(None, None, None)

    def result(self) -> Tracked:
        """Return what was most, and how much of that is gone by now."""
        kept_bytes = sum(size for (_, device), size in self._alive.items() if device == HOST)
        return Tracked(self._at_peak, max(0, self._most[HOST] - kept_bytes))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            if _GATHERING in func._opname.replace("_", ""):
                self._reassign(_tensors(args), GATHERED_LAYERS)
            return result
        made = [tensor for tensor in _tensors((result,)) if id(tensor.untyped_storage()) not in self._known]
        if made:
            given = {id(tensor.untyped_storage()) for tensor in _tensors((*args, *(kwargs or {}).values()))}
            for tensor in made:
                self._count(tensor, given)
        return result

    def _component(self) -> str:
        if torch._C._current_graph_task_id() != _NO_BACKWARD:
            return ACTIVATIONS
        return self._inside[-1] if self._inside else self.making

    def _count(self, tensor: Tensor, given: set[int]) -> None:
        """Count a storage that the operation made itself."""
        storage = tensor.untyped_storage()
        key, device, size = id(storage), tensor.device.type, storage.nbytes()
        if key in given or key in self._known or device == "meta" or not size:
            return
        self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), self._component(), device, size)
        self._add(self._known[key][1], device, size)

    def _add(self, component: str, device: str, size: int) -> None:
        self._alive[component, device] += size
        total = sum(bytes_ for (_, where), bytes_ in self._alive.items() if where == device)
        if total >= self._most[device]:  # equal where only the component of a storage became known
            self._most[device] = total
            self._at_peak[device] = {name: found for (name, where), found in self._alive.items() if where == device}

    def _forget(self, key: int) -> None:
        _, component, device, size = self._known.pop(key)
        self._alive[component, device] -= size

    def _reassign(self, tensors: Iterable[Tensor], component: str) -> None:
        """Move storages that turn out to be something else, e.g. where a layer's shards are gathered."""
        for tensor in tensors:
            key = id(tensor.untyped_storage())
            if key in self._known:
                reference, before, device, size = self._known[key]
                self._known[key] = (reference, component, device, size)
                self._alive[before, device] -= size
                self._add(component, device, size)

    def _entering(self, component: str) -> Any:
        def enter(*_: Any) -> None:
            self._inside.append(component)

        return enter

    def _leaving(self, *_: Any) -> None:
        self._inside.pop()


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among an operation's arguments or results, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
