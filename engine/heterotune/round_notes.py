"""What a rank notes of the chunks of a round, and what the root makes of all ranks' notes: pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.ledger import Ledger
from heterotune.profiling.kinds import NODE_PSS

ClientLoss = tuple[int, int, int, float, float]  # client id, model type, rows, mean training loss, mean of squares
ChunkPasses = tuple[int, int, float, float]  # model type, passes, seconds, padding share


@dataclass(frozen=True)
class RoundNotes:
    """What a rank has noted of the chunks of a round that it has finished.

    Attributes:
        losses: One entry a client.
        passes: One entry a chunk.
        ledger: Their messages.
        verdicts: Whether their updates count; one entry a client.
    """

    losses: list[ClientLoss]
    passes: list[ChunkPasses]
    ledger: Ledger
    verdicts: list[Verdict] = field(default_factory=list)


def loss_metrics(rows: Sequence[ClientLoss], model_types: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each model type's training loss, weighted by rows; a client whose loss is no number does not count."""
    for place, name in enumerate(model_types):
        mine = [(num_rows, loss) for _, owner, num_rows, loss, _ in sorted(rows) if owner == place and loss < math.inf]
        if mine:
            mean = sum(num_rows * loss for num_rows, loss in mine) / sum(num_rows for num_rows, _ in mine)
            yield {"name": "loss/train", "model_type": name, "value": mean, "unit": "nats/token"}


def seconds_metrics(seconds: float, of_phase: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a round and of its phases, by name."""
    yield {"name": "seconds/round", "value": seconds, "unit": "s"}
    for phase, value in sorted(of_phase.items()):
        yield {"name": f"seconds/{phase}", "value": value, "unit": "s"}


def padding_metric(passes: Sequence[ChunkPasses]) -> dict[str, Any]:
    """Return the share of trained positions that were padding."""
    total = sum(num_passes for _, num_passes, _, _ in passes)
    share = sum(num_passes * padding for _, num_passes, _, padding in passes) / total if total else 0.0
    return {"name": "padding_share/train", "value": share, "unit": "share of positions"}


def node_peaks(round_number: int, by_rank: Sequence[tuple[str, int | None]]) -> list[dict[str, Any]]:
    """Return each node's memory as a record of the first of its ranks; nothing for a node where it is not known.

    Args:
        round_number: The round.
        by_rank: Node and proportional memory of each rank, in bytes.
    """
    nodes: dict[str, list[tuple[int, int | None]]] = defaultdict(list)
    for mpi_rank, (node, pss) in enumerate(by_rank):
        nodes[node].append((mpi_rank, pss))
    common = {"round": round_number, "phase": "round", "kind": NODE_PSS}
    return [
        {**common, "mpi_rank": ranks[0][0], "peak_bytes": sum(pss or 0 for _, pss in ranks)}
        for ranks in nodes.values()
        if all(pss is not None for _, pss in ranks)
    ]


def highest_peaks(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the highest peak of each kind and rank, as metrics."""
    peaks: dict[tuple[str, int], int] = defaultdict(int)
    for record in records:
        place = f"peak_bytes/{record['kind']}", record["mpi_rank"]
        peaks[place] = max(peaks[place], record["peak_bytes"])
    return [{"name": name, "mpi_rank": rank, "value": peak} for (name, rank), peak in sorted(peaks.items())]


def measured_costs(thought: np.ndarray, passes: Sequence[ChunkPasses]) -> np.ndarray:
    """Return the seconds of a pass of each model type; types that did not train keep their ratio to those that did."""
    costs = np.full(len(thought), np.nan)
    for place in range(len(thought)):
        mine = [(num_passes, seconds) for owner, num_passes, seconds, _ in passes if owner == place]
        if mine:
            costs[place] = sum(seconds for _, seconds in mine) / sum(num_passes for num_passes, _ in mine)
    known = ~np.isnan(costs)
    ratio = costs[known].sum() / thought[known].sum() if known.any() else 1.0
    return np.where(known, costs, thought * ratio)
