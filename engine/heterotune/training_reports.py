"""What clients tell the server of their training beside their updates, where the selection of cohorts looks at it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import encode
from heterotune.fleet.client_records import REPORT
from heterotune.journal import ClientLoss
from heterotune.training.local import TrainedChunk

GROUP = "selection.report"
"""The reports' place in the ledger."""


def note_reports(trained: TrainedChunk, ledger: Ledger, *, model_type: str, round_number: int) -> None:
    """Count what the clients of a chunk send: two numbers, in a message as any other."""
    for client, loss, square in zip(trained.chunk.clients, trained.loss_K, trained.square_K, strict=True):
        message = encode(np.array([loss, square], dtype=np.float32), "fp32")
        ledger.add(
            round_number=round_number,
            client_id=client.client_id,
            model_type=model_type,
            direction="up",
            group=GROUP,
            num_bytes=len(message),
        )


def gather_training_reports(losses: Sequence[ClientLoss], channel: Channel) -> np.ndarray:
    """Let every rank know what all clients of a round reported, in client order. Every rank must call this.

    Args:
        losses: What this rank noted of the round's clients.
        channel: The ranks.

    Returns:
        Of dtype REPORT.
    """
    gathered = channel.gather_bytes(np.array([tuple(row) for row in losses], dtype=REPORT).tobytes())
    reports = None
    if gathered is not None:
        reports = np.concatenate([np.frombuffer(part, dtype=REPORT) for part in gathered])
        reports = reports[np.argsort(reports["client_id"])].tobytes()
    return np.frombuffer(channel.broadcast_bytes(reports if channel.mpi_rank == ROOT else None), dtype=REPORT)
