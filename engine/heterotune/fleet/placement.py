"""Which MPI ranks hold and train which model types: all of them all (`spread`), or each its own (`dedicated`).

A rank that is dedicated loads no other backbone and never waits for another type's passes; results are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

PlacementKind = Literal["spread", "dedicated"]


@dataclass(frozen=True)
class Seat:
    """A rank among those that share out a model type's work.

    Attributes:
        number: From 0, in the order of MPI ranks.
        num_ranks: How many share it out.
    """

    number: int
    num_ranks: int


@dataclass(frozen=True)
class Placement:
    """The same on every rank.

    Attributes:
        ranks_of_type: For each model type, in fleet order, the MPI ranks that hold its backbone, in order.
        num_ranks: Of the job.
    """

    ranks_of_type: tuple[tuple[int, ...], ...]
    num_ranks: int

    def held_by(self, mpi_rank: int) -> tuple[int, ...]:
        """Return the places of the model types that a rank holds, in fleet order."""
        return self.crews[self.crew_of_rank[mpi_rank]]

    def seat(self, mpi_rank: int, place: int) -> Seat:
        """Return a rank's number among those that hold a model type. It must be one of them."""
        ranks = self.ranks_of_type[place]
        return Seat(ranks.index(mpi_rank), len(ranks))

    @cached_property
    def crews(self) -> tuple[tuple[int, ...], ...]:
        """The sets of model types that some rank holds, in the order of their first ranks."""
        return tuple(dict.fromkeys(self._types_of_rank))

    @cached_property
    def crew_of_rank(self) -> tuple[int, ...]:
        """For each MPI rank the number of its crew: ranks of one crew hold the same model types."""
        numbers = {types: number for number, types in enumerate(self.crews)}
        return tuple(numbers[types] for types in self._types_of_rank)

    @cached_property
    def _types_of_rank(self) -> list[tuple[int, ...]]:
        types: list[list[int]] = [[] for _ in range(self.num_ranks)]
        for place, ranks in enumerate(self.ranks_of_type):
            for mpi_rank in ranks:
                types[mpi_rank].append(place)
        return [tuple(places) for places in types]


def spread(num_types: int, num_ranks: int) -> Placement:
    """Let every rank hold every model type."""
    return Placement((tuple(range(num_ranks)),) * num_types, num_ranks)


def dedicate(work_of_type: Sequence[float], node_of_rank: Sequence[str], *, whole_nodes: bool) -> Placement:
    """Deal ranks to model types in proportion to a round's work, so that the last to finish finishes early.

    Every type gets at least one; where there are fewer ranks than types, types share a rank.

    Args:
        work_of_type: What a round of each model type costs, in any unit.
        node_of_rank: The name of every MPI rank's node, in rank order.
        whole_nodes: Deal whole nodes, where there are as many as types: ranks of a node share what they hold.
    """
    nodes: dict[str, list[int]] = {}
    for mpi_rank, node in enumerate(node_of_rank):
        nodes.setdefault(node, []).append(mpi_rank)
    by_node = whole_nodes and len(nodes) >= len(work_of_type)
    units = [*nodes.values()] if by_node else [[mpi_rank] for mpi_rank in range(len(node_of_rank))]
    dealt = _share_out(work_of_type, len(units)) if len(units) >= len(work_of_type) else _pack(work_of_type, len(units))
    ranks = (tuple(sorted(mpi_rank for number in numbers for mpi_rank in units[number])) for numbers in dealt)
    return Placement(tuple(ranks), len(node_of_rank))


def _share_out(work_of_type: Sequence[float], num_units: int) -> list[range]:
    """Return each type's units, side by side: one more each time for the type that would take longest."""
    counts = [1] * len(work_of_type)
    for _ in range(num_units - len(counts)):
        slowest = max(range(len(counts)), key=lambda place: (work_of_type[place] / counts[place], -place))
        counts[slowest] += 1
    starts = [sum(counts[:place]) for place in range(len(counts) + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def _pack(work_of_type: Sequence[float], num_units: int) -> list[tuple[int]]:
    """Return each type's one unit: the most work first, to the unit with the least so far."""
    load, num_types, unit_of_type = [0.0] * num_units, [0] * num_units, [(0,)] * len(work_of_type)
    for place in sorted(range(len(work_of_type)), key=lambda place: (-work_of_type[place], place)):
        unit = min(range(num_units), key=lambda number: (load[number], num_types[number], number))
        load[unit] += work_of_type[place]
        num_types[unit] += 1
        unit_of_type[place] = (unit,)
    return unit_of_type
