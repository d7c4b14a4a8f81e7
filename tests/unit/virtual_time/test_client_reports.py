"""What ranks tell one another of their clients: bytes from the ledger, operations from the rows that were drawn."""

from __future__ import annotations

import numpy as np

from heterotune.adapters.training_flops import TrainingCost, causal_pairs
from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.config.method_options import LocalConfig
from heterotune.data.batches import batches
from heterotune.data.tokenizing import Rows
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.round_notes import RoundNotes
from heterotune.round_plan import RoundPlan
from heterotune.virtual_time.client_reports import ClientMeter, gather_reports, with_side_bytes
from heterotune.virtual_time.client_time import ClientWork
from heterotune.virtual_time.virtual_clock import Report

LENGTHS = np.array([3, 5, 2, 7, 4])
ROWS = Rows(np.zeros((5, 8), dtype=np.int64), np.zeros((5, 8), dtype=np.int64), LENGTHS)
CLIENTS = [Client(number, number % 2, 5) for number in range(3)]
COSTS = [TrainingCost(10, 1), TrainingCost(100, 7)]
METER = ClientMeter(COSTS, [ROWS] * 3, LocalConfig(steps=4, batch_size=2), run_seed=3)


def rows_drawn(client_id: int, num_steps: int) -> list[int]:
    picks_SB = batches(ROWS, seed=3, round_number=6, client_id=client_id, batch_size=2, num_steps=4)
    return LENGTHS[picks_SB[:num_steps]].flatten().tolist()


def test_operations_are_those_of_the_rows_that_a_client_draws():
    lengths = rows_drawn(1, 4)
    assert METER.flops(CLIENTS[1], 6) == 100 * sum(lengths) + 7 * causal_pairs(lengths)
    assert METER.flops(CLIENTS[1], 6, share=0.7) == COSTS[1].flops(
        num_tokens=sum(rows_drawn(1, 2)), num_pairs=causal_pairs(rows_drawn(1, 2))
    )
    assert METER.flops(CLIENTS[1], 6, share=0.2) == 0


def test_a_report_has_a_clients_bytes_and_a_drop_out_sends_nothing():
    ledger = Ledger()
    for client_id, direction, group, num_bytes in (
        (0, "down", "a", 10),
        (0, "down", "b", 20),
        (0, "up", "a", 5),
        (1, "down", "a", 11),
        (2, "down", "a", 12),
        (2, "up", "a", 6),
    ):
        ledger.add(
            round_number=6,
            client_id=client_id,
            model_type="small",
            direction=direction,
            group=group,
            num_bytes=num_bytes,
        )
    chunk = Chunk(0, (CLIENTS[0], CLIENTS[2]), (4, 4))
    plan = RoundPlan(6, (chunk,), ((chunk,),), {CLIENTS[1]: "dropped_out"}, done_share={1: 0.5})
    verdicts = [Verdict(2, "too_large", "why", 9.5), Verdict(0)]
    notes = RoundNotes([(2, 0, 5, 1.5), (0, 0, 5, 2.5)], [], ledger, verdicts)
    zero, one, two = gather_reports(plan, notes, METER, SingleChannel())
    assert zero.work == ClientWork(30, METER.flops(CLIENTS[0], 6), 5)
    assert (zero.client, zero.verdict) == (CLIENTS[0], Verdict(0))
    assert one.work == ClientWork(11, METER.flops(CLIENTS[1], 6, share=0.5), None)
    assert one.verdict == Verdict(1, "dropped_out")
    assert (two.verdict, two.work.up_bytes) == (verdicts[0], 6)


def test_what_clients_exchange_beside_their_updates_is_added():
    work = [ClientWork(10, 7.0, 5), ClientWork(11, 7.0, None), ClientWork(12, 7.0, 6), ClientWork(13, 7.0, 8)]
    verdicts = [Verdict(0), Verdict(1, "dropped_out"), Verdict(2, "not_finite"), Verdict(3)]
    clients = [*CLIENTS, Client(3, 1, 5)]
    reports = [Report(*each) for each in zip(clients, work, verdicts, strict=True)]
    counting = []

    def side_bytes(client_ids):
        counting.extend(client_ids)
        return {0: (100, 200), 1: (300, 400), 2: (500, 600)}

    added = with_side_bytes(reports, side_bytes)
    assert counting == [0, 3] and [(each.client, each.verdict) for each in added] == list(
        zip(clients, verdicts, strict=True)
    )
    assert [each.work for each in added] == [
        ClientWork(110, 7.0, 205),
        ClientWork(311, 7.0, None),
        ClientWork(512, 7.0, 606),
        work[3],
    ]
