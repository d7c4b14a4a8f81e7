"""Rules and methods that look at clients one by one: updates are kept where they came, and meet at the root.

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
from heterotune.aggregation.exact import ExactSum
from heterotune.aggregation.robust import robust_update
from heterotune.collective.channel import ROOT, Channel, Message
from heterotune.config.fault_options import AggregateOptions
from heterotune.strategies.strategy import ClientUpdates, TypeUpdate
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
    weight_of: Mapping[int, int],
    options: AggregateOptions,
    channel: Channel,
) -> RobustRound | None:
    """Bring the updates to the root, type by type, and combine them. Every rank must call this.

    Args:
        kept: Place of a model type -> this rank's updates; used up.
        layouts: Of all model types.
        counts: The clients that count.
        weight_of: Client id -> what it weighs among others, its rows for example.
        options: The rule.
        channel: The ranks.

    Returns:
        At the root what came out; a type with fewer clients than the rule needs is left out. None elsewhere.
    """
    updates, metrics = [], []
    for place, of_type in kept.items():
        clients = _at_the_root(of_type, layouts[place], weight_of, channel)
        if clients is None:
            continue
        layout, num_clients = layouts[place], counts.num_clients[place]
        is_enough = options.is_enough(num_clients)
        told = {"model_type": layout.model_type}
        metrics.append({"name": "aggregate/too_few", "value": int(not is_enough), "unit": "rounds", **told})
        if not is_enough:
            continue
        combined_P, chosen = robust_update(clients.update_KP, clients.share_K, clients.client_ids, options)
        metrics.append({"name": "aggregate/chosen", "value": len(chosen), "unit": "clients", **told})
        updates.append(TypeUpdate(layout.model_type, counts.weight[place], _by_key(layout, combined_P), num_clients))
    return RobustRound(updates, metrics) if channel.mpi_rank == ROOT else None


def gather_each(
    kept: Mapping[int, KeptUpdates],
    layouts: Sequence[AdapterLayout],
    counts: CohortCounts,
    weight_of: Mapping[int, int],
    channel: Channel,
) -> list[TypeUpdate] | None:
    """Bring the updates to the root, type by type, for a method that needs them one by one; as `gather_robust`.

    Returns:
        At the root each model type's exact mean, and its single updates; a type with no client that counts is left
        out. None elsewhere.
    """
    updates = []
    for place, of_type in kept.items():
        clients = _at_the_root(of_type, layouts[place], weight_of, channel)
        if clients is not None and clients.client_ids:
            exact = ExactSum(layouts[place].num_travelling)
            exact.add(clients.update_KP, clients.share_K, clients.client_ids)
            mean = _by_key(layouts[place], exact.finish())
            name, num_clients = layouts[place].model_type, counts.num_clients[place]
            updates.append(TypeUpdate(name, counts.weight[place], mean, num_clients, clients))
    return updates if channel.mpi_rank == ROOT else None


def _at_the_root(
    kept: KeptUpdates, layout: AdapterLayout, weight_of: Mapping[int, int], channel: Channel
) -> ClientUpdates | None:
    """Gather one model type's updates; None but at the root."""
    gathered = channel.gather_bytes(kept.take())
    if gathered is None:
        return None
    client_ids, update_KP = _sorted_rows(gathered, layout.num_travelling)
    total = sum(weight_of[client_id] for client_id in client_ids)
    shares = [weight_of[client_id] / total for client_id in client_ids]
    return ClientUpdates(client_ids, torch.tensor(shares, dtype=torch.float64), update_KP)


def _by_key(layout: AdapterLayout, vector_P: Tensor) -> dict[str, Tensor]:
    """Cut what a client sends into tensors."""
    return {spec.key: vector_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}


def _sorted_rows(gathered: Iterable[Message], num_elements: int) -> tuple[list[int], Tensor]:
    """Return client ids in order, and one row for each."""
    row = np.dtype([("client", "<i8"), ("update", "<f4", (num_elements,))])
    rows = np.concatenate([np.frombuffer(part, row) for part in gathered])
    rows = rows[np.argsort(rows["client"])]
    return rows["client"].tolist(), torch.from_numpy(rows["update"].copy())
