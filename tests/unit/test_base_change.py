"""Changes of frozen weights: factors in messages, their sums on every rank, and what clients download of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, BaseSite, TensorSpec
from heterotune.base_change import BaseChange
from heterotune.checkpoint import Checkpoint
from heterotune.collective.channel import Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.single import SingleChannel
from heterotune.collective.wire import HEADER_BYTES
from heterotune.downlink import Downlink
from heterotune.errors import CheckpointError
from heterotune.fleet.clients import Client
from heterotune.server import GlobalAdapters

SITES = (BaseSite("layers.0.q", "base/a/layers.0.q", (4, 3)), BaseSite("layers.0.v", "base/a/layers.0.v", (2, 3)))
LAYOUT = AdapterLayout("a", (TensorSpec("x", (2,), "type", "type/a/x", "g", "0"),), base=SITES)
PLAIN = AdapterLayout("b", (TensorSpec("x", (2,), "type", "type/b/x", "g", "0"),))


def factors(num_components: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return {site.key: (matrix(site.shape[0], num_components), matrix(num_components, site.shape[1])) for site in SITES}


@pytest.mark.parametrize(("codec", "tolerance"), [("fp32", 1e-6), ("bf16", 0.1), ("int8", 0.2)])
def test_everybody_adds_up_what_arrives(codec, tolerance):
    root, other = (BaseChange([PLAIN, LAYOUT], run_seed=1) for _ in range(2))
    wanted = {site.key: torch.zeros(site.shape, dtype=torch.float64) for site in SITES}
    for round_number, num_components in ((1, 2), (2, 5)):
        new = factors(num_components, seed=round_number)
        root.add(new)
        messages = root.messages(codec, round_number)
        assert messages.keys() == {1} and not root.messages(codec, round_number)  # sent once
        for receiver in (root, other):
            receiver.receive(messages)
        wanted = {key: wanted[key] + up @ down for key, (up, down) in new.items()}
    for key, value in wanted.items():
        assert torch.equal(root.values[key], other.values[key])
        torch.testing.assert_close(root.values[key].double(), value, atol=tolerance, rtol=tolerance)
    assert root.of_model_type(1).keys() == {"layers.0.q", "layers.0.v"} and not root.of_model_type(0)
    assert root.held_bytes() == 4 * (12 + 6)


def test_int8_draws_by_round_and_repeats():
    def sent(round_number):
        root = BaseChange([LAYOUT], run_seed=1)
        root.add(factors(3))
        return root.messages("int8", round_number)[0]

    assert sent(1) == sent(1) != sent(2)


def test_the_digest_has_base_changes_only_where_there_are_any():
    plain, changed = (GlobalAdapters([LAYOUT], run_seed=1) for _ in range(2))
    alike = GlobalAdapters([AdapterLayout("a", LAYOUT.tensors)], run_seed=1)
    assert plain.sha256() == alike.sha256()
    changed.base.add(factors(1))
    assert plain.sha256() == changed.sha256()  # not before it has been received
    changed.base.receive(changed.base.messages("fp32", 1))
    assert plain.sha256() != changed.sha256()


def test_a_saved_change_of_another_shape_is_refused():
    base = BaseChange([LAYOUT], run_seed=1)
    key = SITES[0].key
    base.restore(Checkpoint(1, {key: torch.ones(4, 3)}, {}, Path("run/clients")))
    assert torch.equal(base.values[key], torch.ones(4, 3))
    with pytest.raises(CheckpointError, match=r"base/a/layers.0.q is \(3, 4\).*it is not of this run"):
        base.restore(Checkpoint(1, {key: torch.ones(3, 4)}, {}, Path("run/clients")))


def message_bytes(num_components: int) -> int:
    return HEADER_BYTES + 4 * num_components * (4 + 3 + 2 + 3)


DENSE = 2 * HEADER_BYTES + 4 * (12 + 6)


def run_rounds(downlink: Downlink, adapters: GlobalAdapters, rounds: range, num_components: int = 1) -> None:
    channel: Channel = SingleChannel()
    for round_number in rounds:
        adapters.base.add(factors(num_components))
        downlink.broadcast(adapters, channel, "fp32", round_number)


def downloaded(downlink: Downlink, client: Client, round_number: int) -> int:
    ledger = Ledger()
    downlink.note([client], ledger, round_number)
    downlink.remember([client], round_number)
    return sum(entry.num_bytes for entry in ledger if entry.group == "base")


def test_a_client_downloads_the_factors_of_all_rounds_that_it_missed_or_the_whole():
    adapters, downlink = GlobalAdapters([LAYOUT], run_seed=1), Downlink([LAYOUT], [None])
    often, late, last = (Client(number, 0, 5) for number in range(3))
    downlink.broadcast(adapters, SingleChannel(), "fp32", 0)
    assert downloaded(downlink, often, 1) == 0
    run_rounds(downlink, adapters, range(1, 2))
    assert downloaded(downlink, often, 2) == downloaded(downlink, late, 2) == message_bytes(1)
    run_rounds(downlink, adapters, range(2, 3))
    assert downloaded(downlink, often, 3) == message_bytes(1)
    assert 2 * message_bytes(1) > DENSE
    assert downloaded(downlink, last, 3) == DENSE
    assert downloaded(downlink, late, 3) == message_bytes(1)


def test_what_clients_have_is_known_after_a_resume():
    adapters, downlink = GlobalAdapters([LAYOUT], run_seed=1), Downlink([LAYOUT], [None])
    run_rounds(downlink, adapters, range(0, 2))
    client, new = Client(0, 0, 5), Client(1, 0, 5)
    downlink.remember([client], 2)
    run_rounds(downlink, adapters, range(2, 3))
    again = Downlink([LAYOUT], [None])
    again.restore(downlink.state(), adapters.base)
    assert again.known_clients == {0: 2}
    for each in (client, new):
        assert again.base_bytes(0, again.known_clients.get(each.client_id, 0)) == downloaded(downlink, each, 3)


def test_without_base_changes_the_saved_state_is_what_it_was():
    downlink = Downlink([PLAIN], [None])
    downlink.remember([Client(3, 0, 5), Client(1, 0, 5)], 1)
    state = downlink.state()
    assert state.keys() == {"known_clients"} and state["known_clients"].tolist() == [1, 3]
