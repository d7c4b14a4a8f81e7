"""Who trains where in a round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from heterotune.fleet.assignment import common_pauses, passes_in_lock_step
from heterotune.fleet.chunks import Chunk


@dataclass(frozen=True)
class RoundPlan:
    """The same on every rank. `by_rank` has what no earlier job finished, `chunks` has all."""

    round_number: int
    chunks: tuple[Chunk, ...]
    by_rank: tuple[tuple[Chunk, ...], ...]

    @cached_property
    def num_rows(self) -> dict[int, int]:
        """Place of a model type in the cohort -> N_m, the rows of its clients; in model-type order."""
        rows: dict[int, int] = {}
        for chunk in self.chunks:
            rows[chunk.model_type] = rows.get(chunk.model_type, 0) + sum(client.num_rows for client in chunk.clients)
        return rows

    @cached_property
    def num_clients(self) -> dict[int, int]:
        """Place of a model type in the cohort -> its clients."""
        counts: dict[int, int] = {}
        for chunk in self.chunks:
            counts[chunk.model_type] = counts.get(chunk.model_type, 0) + len(chunk.clients)
        return counts

    def chunks_of(self, mpi_rank: int, place: int) -> list[Chunk]:
        """Return the chunks of a model type that a rank trains."""
        return [chunk for chunk in self.by_rank[mpi_rank] if chunk.model_type == place]

    def num_passes(self, mpi_ranks: tuple[int, ...], place: int) -> int:
        """Return the passes for a model type that each of the ranks that share a backbone makes."""
        return passes_in_lock_step([self.by_rank[mpi_rank] for mpi_rank in mpi_ranks], place)

    def is_pause(self, mpi_ranks: tuple[int, ...], place: int, num_passes: int) -> bool:
        """Return whether after so many passes no rank that shares a backbone is in the middle of a chunk."""
        return num_passes in common_pauses([self.by_rank[mpi_rank] for mpi_rank in mpi_ranks], place)
