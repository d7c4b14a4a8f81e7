"""What clients report beside their updates: counted as the message it is, and known in client order."""

from __future__ import annotations

import torch

from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.collective.wire import encode
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.training.local import TrainedChunk
from heterotune.training_reports import GROUP, gather_training_reports, note_reports

CLIENTS = (Client(4, 1, 9), Client(6, 1, 2))


def test_a_report_is_two_numbers_in_a_message():
    trained = TrainedChunk(
        Chunk(1, CLIENTS, (1, 1)), torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), torch.ones(2)
    )
    ledger = Ledger()
    note_reports(trained, ledger, model_type="b", round_number=5)
    num_bytes = len(encode(torch.ones(2).numpy(), "fp32"))
    assert [(e.round_number, e.client_id, e.direction, e.group, e.num_bytes) for e in ledger] == [
        (5, 4, "up", GROUP, num_bytes),
        (5, 6, "up", GROUP, num_bytes),
    ]


def test_reports_are_known_in_client_order():
    rows = [(6, 1, 2, 0.5, 0.25), (4, 1, 9, 1.5, 2.5)]
    found = gather_training_reports(rows, SingleChannel())
    assert found["client_id"].tolist() == [4, 6] and found["square"].tolist() == [2.5, 0.25]
    assert len(gather_training_reports([], SingleChannel())) == 0
