"""What a method adds to frozen weights between rounds: one change a model type, the same for all its clients.

It arrives as factors, U (d_out, R) and V (R, d_in) of every site of a model type in one message, and is kept as their
sums, dense, float32, on every rank. Everybody, the server included, adds up what arrives: a wire that rounds makes all
of them round alike, and what it loses is lost to the server, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, BaseSite
from heterotune.checkpoint import Checkpoint
from heterotune.collective.channel import Message
from heterotune.collective.codecs import codec_named
from heterotune.collective.wire import decode, encode
from heterotune.randomness import NO_CLIENT, generator

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Key of a site -> U (d_out, R) and V (R, d_in) of what is added there; one R for all sites of a model type."""


class BaseChange:
    """The changes of all model types.

    Attributes:
        values: Key of a site -> change, float32 on the CPU; a site to which nothing was added yet is not here.
    """

    def __init__(self, layouts: Sequence[AdapterLayout], *, run_seed: int) -> None:
        self._layouts, self._run_seed = tuple(layouts), run_seed
        self._pending: Factors = {}
        self.values: dict[str, Tensor] = {}

    def add(self, factors: Factors) -> None:
        """Take what the server adds after this round; it counts when it has been received. At the root only."""
        self._pending = dict(factors)

    def messages(self, codec: str, round_number: int) -> dict[int, Message]:
        """Encode what the server adds: place of a model type -> one message. Nothing is left to send then."""
        pending, self._pending = self._pending, {}
        found = {}
        for place, layout in enumerate(self._layouts):
            parts = [part.float().flatten() for site in layout.base for part in pending.get(site.key, ())]
            if parts:
                found[place] = self._encode(torch.cat(parts).numpy(), layout.model_type, codec, round_number)
        return found

    def receive(self, messages: Mapping[int, Message]) -> None:
        """Add what messages carry, as a client does."""
        for place, message in messages.items():
            sites = self._layouts[place].base
            vector = torch.from_numpy(decode(message))
            per_component = sum(sum(site.shape) for site in sites)
            num_components, left = divmod(len(vector), per_component)
            assert not left, f"{len(vector)} elements are no factors of {per_component} elements a component"
            for site, up, down in _factors(sites, vector, num_components):
                change = up @ down
                known = self.values.get(site.key)
                self.values[site.key] = change if known is None else known.add_(change)

    def of_model_type(self, place: int) -> dict[str, Tensor]:
        """Return path of a frozen linear -> its change, for those that have one."""
        return {site.module: self.values[site.key] for site in self._layouts[place].base if site.key in self.values}

    def dense_bytes(self, place: int) -> int:
        """Write the whole change of a model type as messages, one a site, float32; returns how long they are."""
        return sum(len(encode(value.flatten().numpy())) for value in self.of_model_type(place).values())

    def restore(self, saved: Checkpoint) -> None:
        """Take the changes of a checkpoint, which has them under the sites' keys.

        Raises:
            CheckpointError: If one has not its site's shape.
        """
        sites = [site for layout in self._layouts for site in layout.base if site.key in saved.tensors]
        self.values = {
            site.key: saved.tensor(site.key, like=torch.empty(site.shape, device="meta")).clone() for site in sites
        }

    def held_bytes(self) -> int:
        """Return the bytes of all changes."""
        return sum(value.nbytes for value in self.values.values())

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Go through the changes in key order."""
        for key in sorted(self.values):
            yield key, self.values[key].numpy()

    def _encode(self, vector: np.ndarray, model_type: str, codec: str, round_number: int) -> bytes:
        """Write one model type's factors."""
        if not codec_named(codec).rounds_at_random:
            return encode(vector, codec)
        draw = generator(self._run_seed, round_number, NO_CLIENT, f"wire/base/{model_type}")
        return encode(vector, codec, draw)


def _factors(
    sites: Sequence[BaseSite], vector: Tensor, num_components: int
) -> Iterator[tuple[BaseSite, Tensor, Tensor]]:
    """Cut a message into the factors of each site."""
    for site in sites:
        d_out, d_in = site.shape
        up, down, vector = vector.split(
            [d_out * num_components, d_in * num_components, len(vector) - (d_out + d_in) * num_components]
        )
        yield site, up.view(d_out, num_components), down.view(num_components, d_in)
