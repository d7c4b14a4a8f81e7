"""What clients tell the server of their training beside their updates, where the selection of cohorts looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import encode
from heterotune.config.schema import RunConfig
from heterotune.fleet.client_records import REPORT
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.fleet.misbehaviour import simulated_seconds
from heterotune.round_notes import ClientLoss
from heterotune.round_outcome import RoundOutcome
from heterotune.round_plan import RoundPlan
from heterotune.training.chunk_batches import steps_of
from heterotune.training.local import TrainedChunk
from heterotune.virtual_time.round_clock import RoundClock

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


def client_seconds(plan: RoundPlan, config: RunConfig, clock: RoundClock) -> dict[int, float]:
    """Return the simulated seconds that clients took, by id, where the run says how fast they are."""
    slow = config.misbehaviour.slow
    if slow is None:
        return clock.client_seconds()
    num_steps = {client.client_id: steps_of(client.num_rows, config.local) for client in plan.trained}
    return {n: simulated_seconds(n, steps, slow, run_seed=config.seed) for n, steps in num_steps.items()}


def learn_from_reports(
    selection: CohortSelection,
    reports: np.ndarray,
    outcome: RoundOutcome,
    seconds: Mapping[int, float],
    config: RunConfig,
    round_number: int,
) -> None:
    """Let the selection of cohorts know what clients reported, those whose updates count and the others."""
    selection.observe(
        reports,
        counted=[verdict.client_id for verdict in outcome.verdicts if verdict.counts],
        keeps_others=config.clock.takes_stale,
        seconds=seconds,
        round_number=round_number,
    )
