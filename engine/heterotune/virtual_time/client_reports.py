"""What a round's clients did, from what the ranks noted of them: real bytes, real rows, real steps.

Everything comes from the journal's notes and from the seed, so a round whose first chunks an earlier job finished has
the same reports.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace

from heterotune.adapters.training_flops import TrainingCost, causal_pairs
from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.channel import ROOT, Channel
from heterotune.config.method_options import LocalConfig
from heterotune.data.batches import batches
from heterotune.data.tokenizing import Rows
from heterotune.fleet.clients import Client
from heterotune.round_notes import RoundNotes
from heterotune.round_plan import RoundPlan
from heterotune.training.chunk_batches import steps_of
from heterotune.virtual_time.client_time import ClientWork
from heterotune.virtual_time.virtual_clock import Report

SideBytes = Callable[[Sequence[int]], Mapping[int, tuple[int, int]]]
"""Ids of the clients whose updates count -> client id -> bytes (down, up) beside those that the ledger has by then."""


class ClientMeter:
    """Knows what clients' steps cost."""

    def __init__(
        self, costs: Sequence[TrainingCost], rows_of: Sequence[Rows], local: LocalConfig, *, run_seed: int
    ) -> None:
        """Hold on to what is shared; nothing is copied.

        Args:
            costs: Of each model type.
            rows_of: Training rows by client id.
            local: Steps and batch size.
            run_seed: The run's seed.
        """
        self._costs, self._rows_of, self._local, self._run_seed = costs, rows_of, local, run_seed

    def flops(self, client: Client, round_number: int, *, share: float = 1.0) -> int:
        """Return the operations of a client's steps in a round.

        Args:
            client: The client.
            round_number: The round.
            share: Of its steps, rounded down.
        """
        rows, local = self._rows_of[client.client_id], self._local
        num_steps = steps_of(client.num_rows, local)
        picks_SB = batches(
            rows,
            seed=self._run_seed,
            round_number=round_number,
            client_id=client.client_id,
            batch_size=local.batch_size,
            num_steps=num_steps,
        )
        lengths = rows.lengths[picks_SB[: int(share * num_steps)].flatten()].tolist()
        return self._costs[client.model_type].flops(num_tokens=sum(lengths), num_pairs=causal_pairs(lengths))


def gather_reports(plan: RoundPlan, notes: RoundNotes, meter: ClientMeter, channel: Channel) -> list[Report]:
    """Bring together what every rank knows of a round's cohort. Every rank must call this.

    Args:
        plan: The round's.
        notes: This rank's, of all clients that it trained; at the root also what absent clients downloaded.
        meter: Knows what steps cost.
        channel: The ranks.

    Returns:
        One report a client, in client order; the same on every rank.
    """
    gathered = channel.gather_bytes(json.dumps(_rows(plan, notes, meter, channel.mpi_rank == ROOT)).encode())
    rows = [] if gathered is None else sorted(row for part in gathered for row in json.loads(part))
    told = channel.broadcast_bytes(json.dumps(rows).encode() if channel.mpi_rank == ROOT else None)
    clients = {client.client_id: client for client in plan.cohort}
    return [_report(clients[row[0]], *row[1:]) for row in json.loads(told)]


def with_side_bytes(reports: Sequence[Report], side_bytes: SideBytes) -> list[Report]:
    """Return the reports with what clients exchange beside their updates; a client that drops out sends nothing."""
    found = side_bytes([report.client.client_id for report in reports if report.verdict.counts])
    return [
        replace(report, work=_with(report.work, *found[report.client.client_id]))
        if report.client.client_id in found
        else report
        for report in reports
    ]


def _with(work: ClientWork, down: int, up: int) -> ClientWork:
    """Return a client's work with more bytes."""
    sent = None if work.up_bytes is None else work.up_bytes + up
    return replace(work, down_bytes=work.down_bytes + down, up_bytes=sent)


def _rows(plan: RoundPlan, notes: RoundNotes, meter: ClientMeter, is_root: bool) -> list[list[object]]:
    """Return a rank's reports as JSON has them: client id, bytes down, operations, bytes up, verdict."""
    num_bytes: Counter[tuple[int, str]] = Counter()
    for entry in notes.ledger:
        num_bytes[entry.client_id, entry.direction] += entry.num_bytes
    clients, rows = {client.client_id: client for client in plan.trained}, []
    for verdict in notes.verdicts:
        client_id, flops = verdict.client_id, meter.flops(clients[verdict.client_id], plan.round_number)
        down, up = num_bytes[client_id, "down"], num_bytes[client_id, "up"]
        rows.append([client_id, down, flops, up, astuple(verdict)])
    for client, reason in plan.absent.items() if is_root else ():
        share, down = plan.done_share.get(client.client_id, 0.0), num_bytes[client.client_id, "down"]
        flops = meter.flops(client, plan.round_number, share=share)
        rows.append([client.client_id, down, flops, None, astuple(Verdict(client.client_id, reason))])
    return rows


def _report(client: Client, down: int, flops: int, up: int | None, verdict: Sequence[object]) -> Report:
    return Report(client, ClientWork(down, flops, up), Verdict(*verdict))
