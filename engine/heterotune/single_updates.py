"""Rules that look at clients one by one: their updates are kept where they came, and meet at the root.

They travel between ranks as they are: as many bytes as the clients sent. The root holds those of one model type at a
time, K x P x 4 bytes; every other rank those of the clients that it trained.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.aggregation.robust import robust_update
from heterotune.collective.channel import ROOT, Channel, Message
from heterotune.config.fault_options import AggregateOptions
from heterotune.strategies.strategy import TypeUpdate
from heterotune.topology import CohortCounts

_CLIENT = struct.Struct("<q")


class KeptUpdates:
    """The updates of one model type's clients that count in a round, of this rank: an `Intake`."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, Tensor]] = []

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Keep rows; nobody may change them. How much a client weighs is known when all have come."""
        self._rows += zip(client_ids, update_KP, strict=True)

    def take(self) -> bytes:
        """Return all as bytes and keep none: client id and elements, one after the other."""
        rows, self._rows = self._rows, []
        return b"".join(_CLIENT.pack(client_id) + row_P.numpy().tobytes() for client_id, row_P in rows)


@dataclass(frozen=True)
class RobustRound:
    """What a rule made of a round's updates, at the root; see `gather_robust`."""

    updates: list[TypeUpdate]
    metrics: list[dict[str, Any]]


def gather_robust(
    kept: Mapping[int, KeptUpdates],
    layouts: Sequence[AdapterLayout],
    counts: CohortCounts,
    num_rows: Mapping[int, int],
    options: AggregateOptions,
    channel: Channel,
) -> RobustRound | None:
    """Bring the updates to the root, type by type, and combine them. Every rank must call this.

    Args:
        kept: Place of a model type -> this rank's updates; used up.
        layouts: Of all model types.
        counts: The clients that count.
        num_rows: Client id -> its rows.
        options: The rule.
        channel: The ranks.

    Returns:
        At the root what came out; a type with fewer clients than the rule needs is left out. None elsewhere.
    """
    updates, metrics = [], []
    for place, of_type in kept.items():
        gathered = channel.gather_bytes(of_type.take())
        if gathered is None:
            continue
        layout, num_clients = layouts[place], counts.num_clients[place]
        is_enough = options.is_enough(num_clients)
        told = {"model_type": layout.model_type}
        metrics.append({"name": "aggregate/too_few", "value": int(not is_enough), "unit": "rounds", **told})
        if not is_enough:
            continue
        client_ids, update_KP = _sorted_rows(gathered, layout.num_travelling)
        rows = [num_rows[client_id] / counts.num_rows[place] for client_id in client_ids]
        combined_P, chosen = robust_update(update_KP, torch.tensor(rows, dtype=torch.float64), client_ids, options)
        metrics.append({"name": "aggregate/chosen", "value": len(chosen), "unit": "clients", **told})
        mean = {spec.key: combined_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
        updates.append(TypeUpdate(layout.model_type, counts.num_rows[place], mean))
    return RobustRound(updates, metrics) if channel.mpi_rank == ROOT else None


def _sorted_rows(gathered: Iterable[Message], num_elements: int) -> tuple[list[int], Tensor]:
    """Return client ids in order, and one row for each."""
    row = np.dtype([("client", "<i8"), ("update", "<f4", (num_elements,))])
    rows = np.concatenate([np.frombuffer(part, row) for part in gathered])
    rows = rows[np.argsort(rows["client"])]
    return rows["client"].tolist(), torch.from_numpy(rows["update"].copy())
