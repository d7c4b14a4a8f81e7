"""Where a round's sums are added up and combined: at the root (`root`), or each rank a slice of it (`sharded`).

Both come to the same bits: sums are of integers, the rest is done element by element, and dot products are taken over
the same blocks in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from heterotune.aggregation.exact import NUM_COUNTERS, ExactSum, check_counters, to_float64_in_place
from heterotune.aggregation.gram import Grams, whole_grams
from heterotune.aggregation.round_sums import RoundSums
from heterotune.aggregation.slices import Slices, cut
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.sharded_grams import ShardedGrams
from heterotune.config.field_types import TopologyName
from heterotune.downlink import Downlink
from heterotune.privacy.gaussian_mechanism import add_noise
from heterotune.server import GlobalAdapters
from heterotune.strategies.strategy import TypeUpdate

Noise = Callable[[int], np.ndarray]
"""Place of a model type -> integers on the grid of its sum, int64, shape (P,)."""
Unmask = Callable[[int, ExactSum], bool]
"""Takes the masks off a model type's sum, in place; returns False if too few clients stayed, and the type is lost."""


@dataclass(frozen=True)
class CohortCounts:
    """Place of a model type -> its clients whose updates count and what they weigh, over all ranks.

    Attributes:
        num_clients: In its sum.
        weight: Rows of these clients, or what else the type weighs among others; a type with none is left out.
        scale: What makes of a sum the mean over these clients, where the weights were made for more of them.
    """

    num_clients: Mapping[int, int]
    weight: Mapping[int, int]
    scale: Mapping[int, float] = field(default_factory=dict)


class Topology(Protocol):
    """What lies between the ranks' sums and the values that all have again. Every rank must call every method."""

    grams: Grams
    """Gives a strategy dot products of what `gather` returned."""

    def gather(
        self, sums: RoundSums, counts: CohortCounts, noise: Noise | None = None, unmask: Unmask | None = None
    ) -> list[TypeUpdate] | None:
        """Add up all ranks' sums, which are then used up.

        Args:
            sums: This rank's.
            counts: Who is in all ranks' sums.
            noise: What is added to a complete sum; None = nothing.
            unmask: Takes the masks off a complete sum before that; None = there are none. At a root only.

        Returns:
            The mean update of each model type with clients that count, as much of it as this rank combines; None on a
            rank that combines nothing.

        Raises:
            AggregationError: If not all clients were added.
        """
        ...

    def apply(self, change: Mapping[str, Tensor]) -> None:
        """Add changes to as much of the common values as `gather` gave; only on ranks that combine."""
        ...

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Take new values of the server for some keys, the same on every rank, before they are broadcast."""
        ...

    def broadcast(self, downlink: Downlink, codec: str, round_number: int) -> None:
        """Let every rank have the new values, as the messages that clients download after a round, 0 = before all."""
        ...

    def held_bytes(self) -> int:
        """Return the bytes of memory that rounds use again."""
        ...


def make_topology(name: TopologyName, adapters: GlobalAdapters, channel: Channel) -> Topology:
    """Return the topology that a run file names."""
    return ShardedTopology(adapters, channel) if name == "sharded" else RootTopology(adapters, channel)


class RootTopology:
    """Everything on the root; see `Topology`."""

    def __init__(self, adapters: GlobalAdapters, channel: Channel) -> None:
        self._adapters, self._channel = adapters, channel
        self.grams: Grams = whole_grams

    def gather(
        self, sums: RoundSums, counts: CohortCounts, noise: Noise | None = None, unmask: Unmask | None = None
    ) -> list[TypeUpdate] | None:
        """Add up all sums in one call; the means stay where the sums were."""
        self._channel.sum_to_root(sums.as_array())
        if self._channel.mpi_rank != ROOT:
            return None
        updates = []
        for place, exact in sums.of_place.items():
            layout = self._adapters.layouts[place]
            if unmask is not None and not unmask(place, exact):
                continue
            if noise is not None:
                add_noise(exact, noise(place))
            mean_P = exact.finish(num_clients=counts.num_clients[place])
            if counts.weight[place] == 0:
                continue
            if place in counts.scale:
                mean_P *= counts.scale[place]
            means = {spec.key: mean_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
            updates.append(TypeUpdate(layout.model_type, counts.weight[place], means, counts.num_clients[place]))
        return updates

    def apply(self, change: Mapping[str, Tensor]) -> None:
        """Add whole changes."""
        self._adapters.apply(change)

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Take whole values."""
        self._adapters.replace(values)

    def broadcast(self, downlink: Downlink, codec: str, round_number: int) -> None:
        """Send the root's messages to all."""
        downlink.broadcast(self._adapters, self._channel, codec, round_number)

    def held_bytes(self) -> int:
        """Return 0: the means are where the sums were."""
        return 0


class ShardedTopology:
    """Every rank a slice of all tensors; see `Topology`. Takes memory for a second copy of the sums, once."""

    def __init__(self, adapters: GlobalAdapters, channel: Channel) -> None:
        self._adapters, self._channel = adapters, channel
        self._sizes = {key: spec.num_elements for key, spec in sorted(adapters.tensors.items())}
        self._columns = [
            {spec.key: layout.travelling_columns[spec.name] for spec in layout.travelling}
            for layout in adapters.layouts
        ]
        num_counters = channel.num_ranks * NUM_COUNTERS * len(adapters.layouts)
        num_elements = sum(layout.num_travelling for layout in adapters.layouts)
        self._packed = torch.empty(num_counters + num_elements, dtype=torch.int64)
        self._values = torch.empty(sum(self._sizes.values()))
        self._slices: Slices | None = None

    @property
    def grams(self) -> Grams:
        """Dot products of the round's slices."""
        return ShardedGrams(self._round_slices, self._channel)

    def gather(
        self, sums: RoundSums, counts: CohortCounts, noise: Noise | None = None, unmask: Unmask | None = None
    ) -> list[TypeUpdate] | None:
        """Add up all sums, each rank its slice; the means stay in the slice."""
        assert unmask is None, "a slice of a masked sum cannot be unmasked"
        places = [place for place in sums.of_place if counts.weight[place]]
        num_holders = {key: sum(key in self._columns[place] for place in places) for key in self._sizes}
        self._slices = cut(self._sizes, num_holders, self._channel.num_ranks)
        bounds = self._pack(sums, places)
        self._channel.reduce_scatter(self._packed[: bounds[-1]].numpy(), bounds)
        mine = self._packed[bounds[self._channel.mpi_rank] : bounds[self._channel.mpi_rank + 1]]
        counters = mine[: NUM_COUNTERS * len(places)].view(-1, NUM_COUNTERS).tolist()
        for place, counter in zip(places, counters, strict=True):
            check_counters(counter, group=sums.of_place[place].group, num_clients=counts.num_clients[place])
        if noise is not None:
            self._add_noise(mine[NUM_COUNTERS * len(places) :], {place: noise(place) for place in places})
        means = self._means(places, to_float64_in_place(mine[NUM_COUNTERS * len(places) :]))
        for place, scale in counts.scale.items():
            for mean in means[place].values():
                mean *= scale
        layouts = self._adapters.layouts
        return [
            TypeUpdate(layouts[place].model_type, counts.weight[place], means[place], counts.num_clients[place])
            for place in places
        ]

    def apply(self, change: Mapping[str, Tensor]) -> None:
        """Put this rank's slice of the new values into its place in the row of all tensors."""
        for key, part in self._round_slices.of(self._channel.mpi_rank).items():
            start = self._round_slices.starts[key]
            out = self._values[start + part.start : start + part.stop]
            self._adapters.write_changed(key, change.get(key), out, part)

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Put whole values into the row of all tensors: every slice has its part then."""
        places = self._new_values()
        for key, value in values.items():
            places[key].copy_(value.flatten())
            self._adapters.replace({key: places[key]})

    def broadcast(self, downlink: Downlink, codec: str, round_number: int) -> None:
        """Give all ranks all slices (before round 1: the root's values); every rank makes the messages itself."""
        if self._slices is None:
            for key, new_P in self._new_values().items():
                self._adapters.write_changed(key, None, new_P)
            self._channel.broadcast(self._values.numpy())
        else:
            self._channel.all_gather(self._values.numpy(), self._slices.bounds)
        self._adapters.replace(self._new_values())
        downlink.take(self._adapters, self._adapters.messages(codec, round_number))

    def held_bytes(self) -> int:
        """Return the bytes of the second copy of the sums, and of the new values."""
        return self._packed.nbytes + self._values.nbytes

    def _new_values(self) -> dict[str, Tensor]:
        """Return key -> its place in the row of all values."""
        return dict(zip(self._sizes, self._values.split(list(self._sizes.values())), strict=True))

    @property
    def _round_slices(self) -> Slices:
        assert self._slices is not None, "nothing was gathered yet"
        return self._slices

    def _runs(self, mpi_rank: int, places: Sequence[int]) -> Iterator[tuple[str, int, slice]]:
        """Yield (key, place, columns of the type's vector) for what a rank adds up, in the order of its slice."""
        for key, part in self._round_slices.of(mpi_rank).items():
            for place in places:
                if key in self._columns[place]:
                    start = self._columns[place][key].start
                    yield key, place, slice(start + part.start, start + part.stop)

    def _add_noise(self, mine: Tensor, noise_of: Mapping[int, np.ndarray]) -> None:
        """Add this rank's part of the noise to its slice, in place."""
        for _, place, columns in self._runs(self._channel.mpi_rank, list(noise_of)):
            size = columns.stop - columns.start
            mine[:size] += torch.from_numpy(noise_of[place][columns])
            mine = mine[size:]

    def _pack(self, sums: RoundSums, places: Sequence[int]) -> list[int]:
        """Copy sums into the order of slices, each after the counters of all types; returns the slices' bounds."""
        counters = torch.tensor([sums.of_place[place].counters for place in places], dtype=torch.int64).flatten()
        sizes = []
        rest = self._packed
        for mpi_rank in range(self._channel.num_ranks):
            runs = [sums.of_place[place].sum_P[columns] for _, place, columns in self._runs(mpi_rank, places)]
            sizes.append(len(counters) + sum(map(len, runs)))
            torch.cat([counters, *runs], out=rest[: sizes[-1]])
            rest = rest[sizes[-1] :]
        return [*accumulate(sizes, initial=0)]

    def _means(self, places: Sequence[int], mine: Tensor) -> dict[int, dict[str, Tensor]]:
        """Return place -> key -> this rank's part of the mean; no element where it has none."""
        means = {place: {key: mine[:0] for key in self._columns[place]} for place in places}
        for key, place, columns in self._runs(self._channel.mpi_rank, places):
            size = columns.stop - columns.start
            means[place][key], mine = mine[:size], mine[size:]
        return means
