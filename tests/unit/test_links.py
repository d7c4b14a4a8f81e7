"""The way down and the way up: what travels, what is counted, what arrives."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.client_store import ClientStore
from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.collective.wire import HEADER_BYTES
from heterotune.config.schema import CollectiveConfig
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


@pytest.fixture
def send(tmp_path):
    """Send the updates of the two clients; returns the sum and the ledger."""

    def send(update_KP, wire: str = "fp32", round_number: int = 3):
        exact, ledger = ExactSum(LAYOUT.num_travelling), Ledger()
        send_updates(
            trained(update_KP),
            LAYOUT,
            exact,
            ledger,
            round_number=round_number,
            num_rows_of_type=40,
            wire=CollectiveConfig(wire=wire, topk_share=0.3),
            run_seed=1,
            store=ClientStore(tmp_path / "clients", run_seed=1),
        )
        return exact, ledger

    return send


def test_what_arrives_is_the_weighted_mean_of_what_travels(send):
    update_KP = torch.arange(18.0).view(2, 9)
    exact, ledger = send(update_KP)
    mean = 0.25 * update_KP[0].double() + 0.75 * update_KP[1].double()
    arrived = exact.to_float64(num_clients=2)
    for spec in LAYOUT.travelling:
        torch.testing.assert_close(arrived[LAYOUT.travelling_columns[spec.name]], mean[LAYOUT.columns[spec.name]])
    counted = {(entry.client_id, entry.direction, entry.group): entry.num_bytes for entry in ledger}
    sizes = {"dema.type": HEADER_BYTES + 12, "dema.head": HEADER_BYTES + 16}
    assert counted == {(client, "up", group): size for client in (4, 9) for group, size in sizes.items()}


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8", "topk"])
@pytest.mark.parametrize("bad", ["nan", "-inf"])
def test_an_update_that_is_not_finite_is_refused_by_client(send, tmp_path, wire, bad):
    update_KP = torch.ones(2, 9)
    update_KP[1, LAYOUT.columns["w.V"].start] = float(bad)
    with pytest.raises(AggregationError, match="client 9: its update of update is not finite"):
        send(update_KP, wire)
    assert not (tmp_path / "clients").exists()


@pytest.mark.parametrize(("wire", "payloads"), [("bf16", (6, 8)), ("int8", (7, 8)), ("topk", (16, 16))])
def test_the_ledger_counts_what_the_codec_wrote(send, wire, payloads):
    _, ledger = send(torch.arange(18.0).view(2, 9), wire)
    counted = {entry.group: entry.num_bytes - HEADER_BYTES for entry in ledger}
    assert counted == dict(zip(("dema.type", "dema.head"), payloads, strict=True))


def test_int8_rounds_otherwise_for_every_client_group_and_round(send):
    update_KP = torch.linspace(0.1, 1.0, 9).repeat(2, 1)
    arrived = [send(update_KP, "int8", round_number)[0].to_float64() for round_number in (1, 1, 2)]
    assert torch.equal(arrived[0], arrived[1])
    assert not torch.equal(arrived[0], arrived[2])


def test_what_topk_leaves_out_is_sent_later(send):
    update_KP = torch.tensor([[9.0, 9, 3, 2, 1, 4, 3, 5, 1]]).repeat(2, 1)  # own, head.S, w.V
    columns = [LAYOUT.columns[spec.name] for spec in LAYOUT.travelling]
    meant_P = torch.cat([update_KP[0, part] for part in columns]).double()
    first = send(update_KP, "topk", 1)[0].to_float64()
    second = send(torch.zeros(2, 9), "topk", 2)[0].to_float64()
    assert torch.count_nonzero(first) == 2  # one element of each group
    assert torch.count_nonzero(second) == 2
    torch.testing.assert_close(first + second, torch.where((first + second) != 0, meant_P, 0.0))


def test_frozen_tensors_are_downloaded_once_wherever_the_client_trains():
    channel = SingleChannel()
    adapters = GlobalAdapters([LAYOUT], run_seed=0)
    ranks = [Downlink([LAYOUT], [FRAME]) for _ in range(2)]
    groups = []
    for round_number, downlink in enumerate(ranks):  # another rank trains the clients in the second round
        for rank in ranks:
            rank.broadcast(adapters, channel, "fp32", round_number)
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


def test_messages_that_are_kept_for_clients_are_counted():
    downlink = Downlink([LAYOUT], [FRAME])
    assert downlink.held_bytes() == 2 * HEADER_BYTES + 4 * (2 * 5 + 5 + 3 * 7)
    assert Downlink([LAYOUT], [None]).held_bytes() == 0
