"""Which real objects of a rank belong to which memory component. Holds none of them: an object that dies is out."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

HOST = "cpu"
"""torch's name for memory of the host; a GPU's is "cuda"."""


class Holdings:
    """Running totals of bytes by component and kind of device, and sources that are asked when somebody looks."""

    def __init__(self) -> None:
        self._followed: dict[tuple[str, str], int] = defaultdict(int)
        self._known: dict[int, weakref.ref[Any]] = {}
        self._sources: list[tuple[str, str, Callable[[], int]]] = []
        # Objects die in any thread, and a collection may begin while the totals change.
        self._lock = threading.RLock()

    def follow(self, component: str, owner: Tensor | np.ndarray | object, num_bytes: int | None = None) -> None:
        """Count an object as long as it lives.

        Args:
            component: Where it belongs.
            owner: A tensor (its whole storage counts, once), an array, or any object that weak references can point to.
            num_bytes: Its bytes; None = those of a tensor or array.
        """
        device, thing = HOST, owner
        if isinstance(owner, Tensor):
            device, thing = owner.device.type, owner.untyped_storage()
        size = thing.nbytes if num_bytes is None else num_bytes
        size = size() if callable(size) else size
        with self._lock:
            if id(thing) not in self._known:
                self._followed[component, device] += size
                self._known[id(thing)] = weakref.ref(thing, self._forgetter(id(thing), component, device, size))

    def ask(self, component: str, source: Callable[[], int], device: str = HOST) -> None:
        """Count what a source says at each look; it must be cheap and call nothing collective."""
        self._sources.append((component, device, source))

    def bytes_on(self, device: str) -> dict[str, int]:
        """Return the bytes of each component on a kind of device now."""
        found: dict[str, int] = defaultdict(int)
        with self._lock:
            for (component, where), size in self._followed.items():
                if where == device:
                    found[component] += size
        for component, where, source in self._sources:
            if where == device:
                found[component] += source()
        return dict(found)

    def _forgetter(self, key: int, component: str, device: str, size: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            with self._lock:
                self._followed[component, device] -= size
                del self._known[key]

        return forget


def added(*parts: Mapping[str, int]) -> dict[str, int]:
    """Return the sums of several components' bytes."""
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for component, num_bytes in part.items():
            total[component] += num_bytes
    return dict(total)
