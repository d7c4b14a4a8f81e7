"""The way down and the way up: what travels, what is counted, what arrives."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.collective.wire import HEADER_BYTES
from heterotune.downlink import Downlink
from heterotune.errors import AggregationError
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.server import GlobalAdapters
from heterotune.training.local import TrainedChunk
from heterotune.uplink import send_updates

LAYOUT = AdapterLayout(
    "a",
    (
        TensorSpec("own", (2,), "client", "", "dema.client", "0"),
        TensorSpec("w.V", (3,), "type", "type/a/w.V", "dema.type", "0"),
        TensorSpec("head.S", (4,), "fleet", "fleet/head.S", "dema.head", "head"),
    ),
)
FRAME = HeadFrame(torch.zeros(2, 5), torch.zeros(5), torch.zeros(3, 7))
CHUNK = Chunk(0, (Client(4, 0, 10), Client(9, 0, 30)), (1, 1))


def trained(update_KP):
    return TrainedChunk(CHUNK, update_KP, update_KP, torch.zeros(2))


def send(update_KP):
    exact, ledger = ExactSum(LAYOUT.num_travelling), Ledger()
    send_updates(trained(update_KP), LAYOUT, exact, ledger, round_number=3, num_rows_of_type=40, codec="fp32")
    return exact, ledger


def test_what_arrives_is_the_weighted_mean_of_what_travels():
    update_KP = torch.arange(18.0).view(2, 9)
    exact, ledger = send(update_KP)
    mean = 0.25 * update_KP[0].double() + 0.75 * update_KP[1].double()
    arrived = exact.to_float64(num_clients=2)
    for spec in LAYOUT.travelling:
        torch.testing.assert_close(arrived[LAYOUT.travelling_columns[spec.name]], mean[LAYOUT.columns[spec.name]])
    counted = {(entry.client_id, entry.direction, entry.group): entry.num_bytes for entry in ledger}
    sizes = {"dema.type": HEADER_BYTES + 12, "dema.head": HEADER_BYTES + 16}
    assert counted == {(client, "up", group): size for client in (4, 9) for group, size in sizes.items()}


def test_an_update_that_is_not_finite_is_refused_by_client():
    update_KP = torch.zeros(2, 9)
    update_KP[1, LAYOUT.columns["w.V"]] = float("nan")
    with pytest.raises(AggregationError, match="client 9: its update"):
        send(update_KP)


def test_frozen_tensors_are_downloaded_once_wherever_the_client_trains():
    channel = SingleChannel()
    adapters = GlobalAdapters([LAYOUT], run_seed=0)
    ranks = [Downlink([LAYOUT], [FRAME]) for _ in range(2)]
    groups = []
    for round_number, downlink in enumerate(ranks):  # another rank trains the clients in the second round
        for rank in ranks:
            rank.broadcast(adapters, channel, "fp32")
        ledger = Ledger()
        downlink.note(CHUNK, LAYOUT, ledger, round_number)
        for rank in ranks:
            rank.remember([CHUNK])
        groups.append({entry.group: entry.num_bytes for entry in ledger if entry.client_id == 4})
    values = {"dema.type": HEADER_BYTES + 12, "dema.head": HEADER_BYTES + 16}
    assert groups[0] == {
        **values,
        "dema.head.frame": HEADER_BYTES + 4 * 15,
        "dema.head.basis": HEADER_BYTES + 4 * 21,
    }
    assert groups[1] == values
