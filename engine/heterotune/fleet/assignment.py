"""Which MPI rank trains which chunk: longest first, onto the rank with the least work so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from heterotune.fleet.chunks import Chunk
from heterotune.fleet.placement import Placement


def assign_chunks(
    chunks: Sequence[Chunk], placement: Placement, *, seconds_per_pass: Mapping[int, float], in_lock_step: bool
) -> tuple[tuple[Chunk, ...], ...]:
    """Hand every chunk to one rank.

    The assignment decides how long a round takes, never what comes out of it.

    Args:
        chunks: The chunks of the round.
        placement: Which ranks may train which model type.
        seconds_per_pass: Model type -> cost of one pass (any unit; only ratios matter).
        in_lock_step: Ranks share a backbone, so each model type is trained by all ranks at the same time and is
            balanced on its own. Otherwise ranks run freely and all model types that they hold are balanced together.

    Returns:
        For each MPI rank its chunks, in model-type order.
    """
    mine: list[list[Chunk]] = [[] for _ in range(placement.num_ranks)]
    load = [0.0] * placement.num_ranks
    load_of_type: list[dict[int, float]] = [{} for _ in range(placement.num_ranks)]

    def cost(chunk: Chunk) -> float:
        return chunk.num_passes * seconds_per_pass[chunk.model_type]

    order = sorted(range(len(chunks)), key=lambda i: (-cost(chunks[i]), i))
    for i in order:
        chunk = chunks[i]

        def work(mpi_rank: int, model_type: int = chunk.model_type) -> tuple[float, float, int]:
            same_type = load_of_type[mpi_rank].get(model_type, 0.0) if in_lock_step else 0.0
            return same_type, load[mpi_rank], mpi_rank

        target = min(placement.ranks_of_type[chunk.model_type], key=work)
        mine[target].append(chunk)
        load[target] += cost(chunk)
        load_of_type[target][chunk.model_type] = load_of_type[target].get(chunk.model_type, 0.0) + cost(chunk)
    return tuple(tuple(sorted(part, key=lambda chunk: (chunk.model_type, chunk.clients[0].client_id))) for part in mine)


def common_pauses(parts: Sequence[Sequence[Chunk]], model_type: int) -> frozenset[int]:
    """Return after how many passes for a model type no rank of a backbone group is in the middle of a chunk.

    Args:
        parts: The chunks of each rank of the group.
        model_type: Which type.
    """
    total = passes_in_lock_step(parts, model_type)
    pauses = set(range(1, total + 1))
    for part in parts:
        ends = set(accumulate(chunk.num_passes for chunk in part if chunk.model_type == model_type))
        pauses &= ends | set(range(max(ends, default=0), total + 1))  # a rank that has finished may pause at any time
    return frozenset(pauses)


def passes_in_lock_step(parts: Sequence[Sequence[Chunk]], model_type: int) -> int:
    """Return the passes that every rank of a backbone group makes for a model type: those of its busiest rank.

    Args:
        parts: The chunks of each rank of the group.
        model_type: Which type.
    """
    return max((sum(chunk.num_passes for chunk in part if chunk.model_type == model_type) for part in parts), default=0)
