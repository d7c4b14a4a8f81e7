"""The way up: every client's update becomes messages, the ledger counts them, what arrives is added up exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.aggregation.exact import ExactSum
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import decode, encode
from heterotune.training.local import TrainedChunk


def send_updates(
    result: TrainedChunk,
    layout: AdapterLayout,
    exact: ExactSum,
    ledger: Ledger,
    *,
    round_number: int,
    num_rows_of_type: int,
    codec: str,
) -> None:
    """Send the updates of a chunk's clients and add what arrives to their model type's sum.

    Args:
        result: The trained chunk.
        layout: Its model type's adapter.
        exact: This rank's sum for the model type; clients are added with weight n_k / N_m.
        ledger: Gets one entry a client and tensor group.
        round_number: The round.
        num_rows_of_type: N_m, the rows of the whole cohort's clients of this type, on all ranks.
        codec: Wire format.

    Raises:
        AggregationError: If an update is not finite or too large; names the client.
    """
    clients = result.chunk.clients
    arrived_KP = torch.empty(len(clients), layout.num_travelling)
    for client, update_P, arrived_P in zip(clients, result.update_KP, arrived_KP, strict=True):
        start = 0
        for group, columns in layout.group_columns.items():
            message = encode(update_P[columns].numpy(), codec)
            ledger.add(
                round_number=round_number,
                client_id=client.client_id,
                model_type=layout.model_type,
                direction="up",
                group=group,
                num_bytes=len(message),
            )
            start = _write(arrived_P, start, torch.from_numpy(decode(message)))
    weights_K = torch.tensor([client.num_rows / num_rows_of_type for client in clients], dtype=torch.float64)
    exact.add(arrived_KP, weights_K, [client.client_id for client in clients])


def _write(vector_P: Tensor, start: int, part: Tensor) -> int:
    """Copy a part into a vector; returns where the next one begins."""
    vector_P[start : start + len(part)] = part
    return start + len(part)
