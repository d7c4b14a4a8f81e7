"""Which MPI ranks share one ZeRO-3 copy of a backbone: all that hold it, those of a node, or nobody.

A smaller group reads less over the network in every pass and holds more memory: a node that has a whole copy gathers
its layers without leaving the node, and its ranks wait for one another only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

GroupChoice = Literal["world", "node", "rank"]

_SPELLED_RANKS = 8

RankGroups = tuple[tuple[int, ...], ...]
"""Each group's MPI ranks in order; every rank of the job is in one group. The same on every rank."""


def group_ranks(choice: GroupChoice, node_of_rank: Sequence[str], crew_of_rank: Sequence[int] = ()) -> RankGroups:
    """Divide the ranks of a job into backbone groups.

    Args:
        choice: As `backbone.group` in the run file.
        node_of_rank: The name of every MPI rank's node, in rank order.
        crew_of_rank: Ranks of different crews hold different model types and share nothing; empty = all are one crew.
    """
    if choice == "rank":
        return tuple((mpi_rank,) for mpi_rank in range(len(node_of_rank)))
    sharing: dict[tuple[int, str], list[int]] = {}
    for mpi_rank, (node, crew) in enumerate(zip(node_of_rank, crew_of_rank or [0] * len(node_of_rank), strict=True)):
        sharing.setdefault((crew, node if choice == "node" else ""), []).append(mpi_rank)
    return tuple(tuple(ranks) for ranks in sharing.values())


def spell_ranks(mpi_ranks: Sequence[int]) -> str:
    """Write ranks for messages: the first few and the last."""
    if len(mpi_ranks) == 1:
        return f"MPI rank {mpi_ranks[0]}"
    if len(mpi_ranks) <= _SPELLED_RANKS:
        return f"MPI ranks {', '.join(map(str, mpi_ranks))}"
    return f"MPI ranks {mpi_ranks[0]}, {mpi_ranks[1]}, ..., {mpi_ranks[-1]} ({len(mpi_ranks)} of them)"
