"""The way down and the way up: what travels, what is counted, what arrives."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from heterotune import uplink
from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout, HeadBranch, TensorSpec
from heterotune.adapters.window import Window
from heterotune.aggregation.exact import ExactSum
from heterotune.client_segments import latest_states
from heterotune.client_store import ClientStore
from heterotune.collective import wire
from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.collective.wire import HEADER_BYTES
from heterotune.config.engine_options import CollectiveConfig
from heterotune.config.fault_options import Byzantine, UpdateLimits
from heterotune.downlink import Downlink
from heterotune.errors import AggregationError
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.server import GlobalAdapters
from heterotune.training.local import TrainedChunk
from heterotune.uplink import UpdateChecks, send_updates

LAYOUT = AdapterLayout(
    "a",
    (
        TensorSpec("own", (2,), "client", "", "dema.client", "0"),
        TensorSpec("w.V", (3,), "type", "type/a/w.V", "dema.type", "0"),
        TensorSpec("head.S", (4,), "fleet", "fleet/head.S", "dema.head", "head"),
    ),
    head=HeadBranch("head.S", 2, 3),
)
FRAME = HeadFrame(torch.zeros(2, 5), torch.zeros(5), torch.zeros(3, 7))
CHUNK = Chunk(0, (Client(4, 0, 10), Client(9, 0, 30)), (1, 1))


def trained(update_KP):
    return TrainedChunk(CHUNK, update_KP, update_KP, torch.zeros(2), torch.zeros(2))


@pytest.fixture
def send(tmp_path):
    """Send the updates of the two clients; returns the sum and the ledger."""

    def send(update_KP, wire: str = "fp32", round_number: int = 3, checks: UpdateChecks | None = None):
        exact, ledger = ExactSum(LAYOUT.num_travelling), Ledger()
        store = ClientStore(tmp_path / "clients", run_seed=1)
        send.verdicts = send_updates(
            trained(update_KP),
            LAYOUT,
            exact,
            ledger,
            round_number=round_number,
            weight_K=torch.tensor([client.num_rows / 40 for client in CHUNK.clients], dtype=torch.float64),
            wire=CollectiveConfig(wire=wire, topk_share=0.3),
            run_seed=1,
            store=store,
            checks=checks,
        )
        store.flush()
        return exact, ledger

    def states():
        folder = tmp_path / "clients"
        found = latest_states(folder) if folder.exists() else {}
        return {client: state.tolist() for client, state in found.items()}

    send.states = states

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
def test_an_update_that_is_not_finite_is_left_out(send, wire, bad):
    send(torch.ones(2, 9), wire, 1)  # under topk both owe something now
    before = send.states()
    update_KP = torch.ones(2, 9)
    update_KP[1, LAYOUT.columns["w.V"].start] = float(bad)
    exact, ledger = send(update_KP, wire, 2)
    assert [(verdict.client_id, verdict.reason) for verdict in send.verdicts] == [(4, None), (9, "not_finite")]
    assert exact.num_clients == 1 and torch.isfinite(exact.to_float64()).all() and exact.sum_P.any()
    assert {entry.client_id for entry in ledger} == {4, 9}  # it did travel
    after = send.states()
    assert bool(before) == (wire == "topk") and before.keys() == after.keys()
    assert all((after[name] == content) == (name[2] == 9) for name, content in before.items())


def test_a_faulty_update_stops_a_run_that_asks_for_it(send, tmp_path):
    update_KP = torch.ones(2, 9)
    update_KP[1, LAYOUT.columns["w.V"].start] = math.nan
    told = r"client 9: its update is refused \(not_finite: 1 of 7 elements are not finite\)"
    with pytest.raises(AggregationError, match=told):
        send(update_KP, "topk", checks=UpdateChecks(UpdateLimits(faulty="stop")))
    assert not (tmp_path / "clients").exists()


def test_a_message_of_the_wrong_length_is_left_out(send, monkeypatch):
    monkeypatch.setattr(uplink, "encode", lambda values, *_, **__: wire.encode(values[:-1]))
    exact, _ = send(torch.ones(2, 9))
    assert [verdict.reason for verdict in send.verdicts] == ["wrong_shape"] * 2 and exact.num_clients == 0
    assert send.verdicts[0].detail == "an update has 3 elements where 4 were expected"


def test_a_hostile_client_sends_something_else(send):
    update_KP = torch.arange(18.0).view(2, 9)
    checks = UpdateChecks(hostile=frozenset([9]), byzantine=Byzantine(behaviour="sign_flip", share=0.5))
    hostile, _ = send(update_KP, checks=checks)
    update_KP[1] *= -1
    assert torch.equal(hostile.sum_P, send(update_KP)[0].sum_P)


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
        downlink.note(CHUNK.clients, ledger, round_number)
        for rank in ranks:
            rank.remember(CHUNK.clients, round_number)
        groups.append({entry.group: entry.num_bytes for entry in ledger if entry.client_id == 4})
    values = {"dema.type": HEADER_BYTES + 12, "dema.head": HEADER_BYTES + 16}
    assert groups[0] == {
        **values,
        "dema.head.frame": HEADER_BYTES + 4 * 15,
        "dema.head.basis": HEADER_BYTES + 4 * 21,
    }
    assert groups[1] == values


def test_maps_that_were_found_anew_are_downloaded_once_more_also_after_a_restart():
    adapters, late = GlobalAdapters([LAYOUT], run_seed=0), Client(9, 0, 30)

    def downloaded(downlink, client, round_number):
        ledger = Ledger()
        downlink.note([client], ledger, round_number)
        downlink.remember([client], round_number)
        return {entry.group for entry in ledger} - {"dema.type", "dema.head"}

    before = Downlink([LAYOUT], [FRAME])
    before.broadcast(adapters, SingleChannel(), "fp32", 0)
    assert downloaded(before, CHUNK.clients[0], 1) == {"dema.head.frame", "dema.head.basis"}
    before.realign([FRAME], 1)
    after = Downlink([LAYOUT], [FRAME])
    after.broadcast(adapters, SingleChannel(), "fp32", 1)
    after.restore(before.state(), adapters.base)
    for downlink in (before, after):
        assert downloaded(downlink, CHUNK.clients[0], 2) == {"dema.head.frame"}
        assert downloaded(downlink, CHUNK.clients[0], 3) == set()
        assert downloaded(downlink, late, 3) == {"dema.head.frame", "dema.head.basis"}


def test_a_basis_of_labels_travels_as_the_numbers_of_their_tokens():
    layout = dataclasses.replace(LAYOUT, head=HeadBranch("head.S", 2, 3, "labels"))
    assert Downlink([layout], [FRAME]).held_bytes() == 2 * HEADER_BYTES + 4 * (2 * 5 + 5 + 3)


def test_messages_that_are_kept_for_clients_are_counted():
    downlink = Downlink([LAYOUT], [FRAME])
    assert downlink.held_bytes() == 2 * HEADER_BYTES + 4 * (2 * 5 + 5 + 3 * 7)
    assert Downlink([LAYOUT], [None]).held_bytes() == 0


class RecordedChannel(SingleChannel):
    """A root whose broadcasts another rank gets afterwards."""

    def __init__(self, mpi_rank: int, sent: list) -> None:
        super().__init__()
        self.mpi_rank, self._sent = mpi_rank, sent

    def broadcast(self, array: np.ndarray) -> None:
        if self.mpi_rank == 0:
            self._sent.append(array.copy())
        else:
            array[:] = self._sent.pop(0)

    def broadcast_bytes(self, data):
        if self.mpi_rank == 0:
            self._sent.append(bytes(data))
            return data
        return self._sent.pop(0)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_every_rank_has_what_no_client_holds_in_the_round_to_come(codec):
    window = Window((4, 2), rolling_axis=0)
    layout = AdapterLayout("a", (TensorSpec("w.V", (1, 2), "width", "width/w.V", "g", "0", window=window),))
    sent: list = []
    root, other = (GlobalAdapters([layout], run_seed=0) for _ in range(2))
    channels = RecordedChannel(0, sent), RecordedChannel(1, sent)
    links = Downlink([layout], [None]), Downlink([layout], [None])
    for round_number in (0, 1, 2):
        root.apply({"width/w.V": torch.full((8,), 0.1001 + round_number, dtype=torch.float64)})
        for adapters, link, channel in zip((root, other), links, channels, strict=True):
            adapters.begin_round(round_number + 1)
            link.broadcast(adapters, channel, codec, round_number)
        assert root.sha256() == other.sha256() and not sent
