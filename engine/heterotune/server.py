"""The simulated server: the common values of all shared tensors, and the messages in which clients download them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec, initial_value
from heterotune.base_change import BaseChange
from heterotune.checkpoint import Checkpoint
from heterotune.collective.channel import Message
from heterotune.collective.codecs import codec_named
from heterotune.collective.wire import decode_all, encode
from heterotune.randomness import NO_CLIENT, generator

_TILE_ELEMENTS = 1 << 17  # a tile in float64 stays in a core's cache

# (place of the model type in the fleet, tensor group) -> the message that each of its clients downloads.
Messages = dict[tuple[int, str], Message]


class GlobalAdapters:
    """Key -> common value, float32 on the CPU, for every tensor that travels. Every rank holds a copy.

    Attributes:
        values: What clients have: the server's values after their way down the wire.
        constants: Key -> value of scope "constant", which no message carries.
        base: What was added to frozen weights.
        round_to_come: The round that trains from the values; it decides where windows are.
    """

    def __init__(
        self, layouts: Sequence[AdapterLayout], *, run_seed: int, start: Mapping[str, Tensor] | None = None
    ) -> None:
        """Give every tensor its first value.

        Args:
            layouts: Of every model type, in its order.
            run_seed: Seeds what begins at random.
            start: Key -> value of tensors that begin elsewhere; the same on every rank.
        """
        self.layouts = tuple(layouts)
        self._run_seed = run_seed
        self.round_to_come = 1
        self.base = BaseChange(layouts, run_seed=run_seed)
        self._exact: dict[str, Tensor] = {}  # before the wire, where it loses something and we are the sender
        self.tensors: dict[str, TensorSpec] = {}
        for layout in layouts:
            for spec in layout.travelling:
                known = self.tensors.setdefault(spec.key, spec.common)
                assert known.shape == spec.common.shape, f"{spec.key}: two shapes under one key"
        self.values: dict[str, Tensor] = {key: self._first_value(spec) for key, spec in sorted(self.tensors.items())}
        for key, value in (start or {}).items():
            assert value.shape == self.values[key].shape, f"{key}: a start of another shape"
            self.values[key] = value
        constants = {spec.key: spec for layout in layouts for spec in layout.tensors if spec.scope == "constant"}
        self.constants = {key: self._first_value(spec) for key, spec in sorted(constants.items())}

    @property
    def shared(self) -> dict[str, Tensor]:
        """Key -> what all clients that hold the tensor have: common values and constants."""
        return self.values | self.constants if self.constants else self.values

    def _first_value(self, spec: TensorSpec, **when: int) -> Tensor:
        return torch.from_numpy(
            initial_value(spec, run_seed=self._run_seed, client_id=NO_CLIENT, name=spec.key, **when)
        )

    def begin_round(self, round_number: int) -> None:
        """Say which round trains next, before its messages are made: windows roll, and what is redrawn is drawn."""
        self.round_to_come = round_number
        for key, spec in self.tensors.items():
            if spec.redrawn:
                self.replace({key: self._first_value(spec, round_number=round_number)})

    def held_by(self, place: int) -> dict[str, Tensor]:
        """Return key -> what clients of a model type have of the tensors that they hold, constants included."""
        windowed = {spec.key: spec for spec in self.layouts[place].tensors if spec.window is not None}
        if not windowed:
            return self.shared
        return self.shared | {key: self._part(spec, self.values[key]) for key, spec in windowed.items()}

    def windowed(self) -> list[str]:
        """Return the keys of tensors of which model types hold parts, in order."""
        return sorted({spec.key for layout in self.layouts for spec in layout.tensors if spec.window is not None})

    @property
    def exact(self) -> dict[str, Tensor]:
        """The server's own values, which a wire that rounds has not touched; right where messages are made."""
        return {key: self._exact.get(key, value) for key, value in self.values.items()}

    def apply(self, change: Mapping[str, Tensor]) -> None:
        """Add a round's changes (float64, flat) to the server's own values: what the wire rounds off is not lost."""
        new = {key: torch.empty(change_P.shape) for key, change_P in change.items()}
        for key, change_P in change.items():
            self.write_changed(key, change_P, new[key])
        self.replace(new)

    def write_changed(self, key: str, change_P: Tensor | None, out: Tensor, part: slice = slice(None)) -> None:
        """Write a part of the server's own value, changed by a part (float64, flat; None = nothing), as float32."""
        value_P = self._exact.get(key, self.values[key]).view(-1)[part]
        if change_P is None:
            out.copy_(value_P)
            return
        for tiles in zip(*(vector_P.split(_TILE_ELEMENTS) for vector_P in (out, value_P, change_P)), strict=True):
            tiles[0].copy_(tiles[1] + tiles[2])  # added in float64 before it is rounded

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Take new values of the server, float32, flat, as their own memory."""
        for key, value_P in values.items():
            self._exact.pop(key, None)
            self.values[key] = value_P.view(self.tensors[key].shape)

    def messages(self, codec: str, round_number: int) -> Messages:
        """Encode what clients download: for every model type one message a tensor group.

        Args:
            codec: Wire format. One with blocks makes a message of each tensor and puts a group's one after the other:
                a tensor that model types share then arrives as the same numbers in all of them.
            round_number: The round after which they are sent; decides how int8 rounds.
        """
        self._exact = {} if codec_named(codec).is_lossless else self.exact
        encode_group = self._encode_tensors if codec_named(codec).has_blocks else self._encode_vector
        return {
            (place, group): encode_group(layout, group, codec, round_number)
            for place, layout in enumerate(self.layouts)
            for group in layout.downloads
        }

    def receive(self, messages: Messages) -> None:
        """Take the values from messages, as a client does: what a lossy wire loses is lost here, too.

        Where no model type holds a part of a common tensor in the round to come, it stays as the server has it.
        """
        exact = self.exact
        self.values |= {key: exact[key].clone() for key in self.windowed()}
        for (place, group), message in messages.items():
            specs = self.layouts[place].downloads[group]
            vector = torch.from_numpy(decode_all(message, sum(spec.num_elements for spec in specs)))
            for spec, value in zip(specs, vector.split([spec.num_elements for spec in specs]), strict=True):
                if spec.window is None:
                    self.values[spec.key] = value.view(spec.shape).clone()
                else:
                    self.values[spec.key].view(-1)[self._places(spec)] = value

    def restore(self, saved: Checkpoint) -> None:
        """Take the server's own values and base changes out of a checkpoint; clients have them when they are sent.

        Raises:
            CheckpointError: If one is not there, or differs in shape.
        """
        self.values = {key: saved.tensor(f"values/{key}", like=value) for key, value in self.values.items()}
        self.base.restore(saved)

    def take_over(self, saved: Checkpoint, codec: str) -> None:
        """Do what `restore` does, and take the values as clients had them after their way down.

        Args:
            saved: After a round.
            codec: Wire format down.
        """
        self.restore(saved)
        self.begin_round(saved.round_number + 1)
        self.receive(self.messages(codec, saved.round_number))

    def held_bytes(self) -> int:
        """Return the bytes of the values, and of the server's own where those differ."""
        of_values = sum(value.nbytes for value in (*self.shared.values(), *self._exact.values()))
        return of_values + self.base.held_bytes()

    def of_model_type(self, place: int) -> dict[str, Tensor]:
        """Return a model type's common tensors and constants by their names in that type."""
        held = self.held_by(place)
        return {spec.name: held[spec.key] for spec in self.layouts[place].tensors if spec.scope != "client"}

    def sha256(self) -> str:
        """Return the digest of all values, then of all base changes: name, dtype, shape and bytes, in name order."""
        digest = hashlib.sha256()
        values = ((key, np.ascontiguousarray(self.values[key].numpy())) for key in sorted(self.values))
        for key, array in (*values, *self.base.arrays()):
            digest.update(f"{key}\x1f{array.dtype.str}\x1f{array.shape}\x1f".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _encode_vector(self, layout: AdapterLayout, group: str, codec: str, round_number: int) -> bytes:
        """Encode a group's tensors as one vector."""
        exact = self.exact
        parts = [self._part(spec, exact[spec.key]).flatten() for spec in layout.downloads[group]]
        return encode(torch.cat(parts).numpy(), codec)

    def _encode_tensors(self, layout: AdapterLayout, group: str, codec: str, round_number: int) -> bytes:
        """Encode a group's tensors one by one, each with draws that belong to its key."""
        messages = []
        for spec in layout.downloads[group]:
            draw = generator(self._run_seed, round_number, NO_CLIENT, f"wire/{spec.key}")
            messages.append(encode(self.exact[spec.key].flatten().numpy(), codec, draw))
        return b"".join(messages)

    def _part(self, spec: TensorSpec, value: Tensor) -> Tensor:
        """Return what a model type holds of a common tensor in the round to come."""
        return value if spec.window is None else value.view(-1)[self._places(spec)].view(spec.shape)

    def _places(self, spec: TensorSpec) -> Tensor:
        """Return where a model type's part is in the flat common tensor."""
        assert spec.window is not None
        return torch.from_numpy(spec.window.places(spec.shape, self.round_to_come))
