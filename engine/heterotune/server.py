"""The simulated server: the common values of all shared tensors, and the messages in which clients download them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec, initial_value
from heterotune.collective.channel import Message
from heterotune.collective.wire import decode, encode
from heterotune.randomness import NO_CLIENT

# (place of the model type in the fleet, tensor group) -> the message that each of its clients downloads.
Messages = dict[tuple[int, str], Message]


class GlobalAdapters:
    """Key -> common value, float32 on the CPU, for every tensor that travels. Every rank holds a copy."""

    def __init__(self, layouts: Sequence[AdapterLayout], *, run_seed: int) -> None:
        self.layouts = tuple(layouts)
        self.tensors: dict[str, TensorSpec] = {}
        for layout in layouts:
            for spec in layout.travelling:
                known = self.tensors.setdefault(spec.key, spec)
                assert known.shape == spec.shape, f"{spec.key}: two shapes under one key"
        self.values: dict[str, Tensor] = {
            key: torch.from_numpy(initial_value(spec, run_seed=run_seed, client_id=NO_CLIENT, name=key))
            for key, spec in sorted(self.tensors.items())
        }

    def apply(self, change: Mapping[str, Tensor]) -> None:
        """Add a round's changes (float64, flat) to the common values."""
        self.replace({key: self.changed(key, change_P) for key, change_P in change.items()})

    def changed(self, key: str, change_P: Tensor | None, part: slice = slice(None)) -> Tensor:
        """Return a part of a common value after a change of that part (float64, flat), float32, flat; None = none."""
        value_P = self.values[key].flatten()[part]
        return value_P if change_P is None else (value_P + change_P).float()  # float64 before it is rounded

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Take new common values, float32, flat, as their own memory."""
        for key, value_P in values.items():
            self.values[key] = value_P.view(self.tensors[key].shape)

    def messages(self, codec: str) -> Messages:
        """Encode what clients download: for every model type one message a tensor group."""
        return {
            (place, group): encode(self._vector(layout, columns).numpy(), codec)
            for place, layout in enumerate(self.layouts)
            for group, columns in layout.group_columns.items()
        }

    def receive(self, messages: Messages) -> None:
        """Take the values from messages, as a client does: what a lossy wire loses is lost here, too."""
        for (place, group), message in messages.items():
            layout = self.layouts[place]
            columns = layout.group_columns[group]
            vector = torch.from_numpy(decode(message, columns.stop - columns.start))
            for spec in layout.travelling:
                if spec.group == group:
                    part = layout.columns[spec.name]
                    value = vector[part.start - columns.start : part.stop - columns.start]
                    self.values[spec.key] = value.view(spec.shape).clone()

    def of_model_type(self, place: int) -> dict[str, Tensor]:
        """Return a model type's shared tensors by their names in that type."""
        return {spec.name: self.values[spec.key] for spec in self.layouts[place].travelling}

    def sha256(self) -> str:
        """Return the digest of all values: name, dtype, shape and bytes, in name order."""
        digest = hashlib.sha256()
        for key in sorted(self.values):
            array = np.ascontiguousarray(self.values[key].numpy())
            digest.update(f"{key}\x1f{array.dtype.str}\x1f{array.shape}\x1f".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _vector(self, layout: AdapterLayout, columns: slice) -> Tensor:
        """Return the values of a run of columns as one float32 vector."""
        parts = [
            self.values[spec.key].flatten()
            for spec in layout.travelling
            if columns.start <= layout.columns[spec.name].start < columns.stop
        ]
        return torch.cat(parts)
