from __future__ import annotations

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.adapters.window import Window
from heterotune.checkpoint import Checkpoint
from heterotune.collective.wire import HEADER_BYTES
from heterotune.server import GlobalAdapters


def make_layouts():
    shared = TensorSpec("head.S", (2, 3), "fleet", "fleet/head.S", "dema.head", "head")
    return [
        AdapterLayout(
            name, (TensorSpec("w.V", (2, size), "type", f"type/{name}/w.V", "dema.type", "0", "kaiming"), shared)
        )
        for name, size in [("a", 4), ("b", 5)]
    ]


def test_messages_carry_all_values_and_nothing_else():
    adapters = GlobalAdapters(make_layouts(), run_seed=1)
    messages = adapters.messages("fp32", 0)
    assert {name: len(message) - HEADER_BYTES for name, message in messages.items()} == {
        (0, "dema.type"): 32,
        (0, "dema.head"): 24,
        (1, "dema.type"): 40,
        (1, "dema.head"): 24,
    }
    other = GlobalAdapters(make_layouts(), run_seed=2)
    assert other.sha256() != adapters.sha256()
    other.receive(messages)
    assert other.sha256() == adapters.sha256()
    assert torch.equal(other.of_model_type(1)["w.V"], adapters.values["type/b/w.V"])


def test_changes_are_added_in_float64():
    adapters = GlobalAdapters(make_layouts(), run_seed=1)
    before = adapters.values["fleet/head.S"].clone()
    adapters.apply({"fleet/head.S": torch.arange(6, dtype=torch.float64) / 3})
    expected = (before.double().flatten() + torch.arange(6, dtype=torch.float64) / 3).float()
    assert torch.equal(adapters.values["fleet/head.S"].flatten(), expected)


def test_the_digest_depends_on_names_shapes_and_bits():
    digests = set()
    for change in ({}, {"fleet/head.S": torch.full((6,), 1e-7, dtype=torch.float64)}):
        adapters = GlobalAdapters(make_layouts(), run_seed=1)
        adapters.apply(change)
        digests.add(adapters.sha256())
    assert len(digests) == 2


def siblings(values: torch.Tensor) -> GlobalAdapters:
    """Two types that share a tensor, which stands at different places in their messages."""
    shared = TensorSpec("z.V", (300,), "width", "width/z.V", "dema.width", "0")
    alone = TensorSpec("a.V", (5,), "width", "width/a.V", "dema.width", "0")
    adapters = GlobalAdapters([AdapterLayout("a", (alone, shared)), AdapterLayout("b", (shared,))], run_seed=1)
    adapters.apply({"width/z.V": values, "width/a.V": values[:5] * 100})
    return adapters


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_a_shared_tensor_arrives_alike_in_all_model_types(codec):
    adapters = siblings(torch.linspace(-1, 1, 300, dtype=torch.float64))
    messages = adapters.messages(codec, 3)
    seen = []
    for place in (0, 1):
        receiver = siblings(torch.zeros(300, dtype=torch.float64))
        receiver.receive({name: message for name, message in messages.items() if name[0] == place})
        seen.append(receiver.values["width/z.V"])
    assert torch.equal(*seen)
    assert messages == adapters.messages(codec, 3)  # a run that is resumed sends the same
    assert (messages == adapters.messages(codec, 4)) == (codec != "int8")


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_what_the_wire_rounds_off_is_not_lost_to_the_server(codec):
    adapters = siblings(torch.ones(300, dtype=torch.float64))
    adapters.receive(adapters.messages(codec, 0))
    for round_number in range(1, 101):
        adapters.apply({"width/z.V": torch.full((300,), 1e-4, dtype=torch.float64)})  # far less than a unit of bf16
        adapters.receive(adapters.messages(codec, round_number))
    torch.testing.assert_close(adapters.exact["width/z.V"], torch.full((300,), 1.01))
    assert (adapters.values["width/z.V"] - 1.01).abs().max() < 0.008
    assert adapters.values["width/z.V"].unique().numel() <= 2  # what clients have is what the wire can say


def windowed(rolling_axis: int | None = None) -> GlobalAdapters:
    """A type that holds two of four rows, and one that holds three."""
    layouts = [
        AdapterLayout(
            name,
            (TensorSpec("w.V", (rows, 2), "width", "width/w.V", "g", "0", window=Window((4, 2), rolling_axis)),),
        )
        for name, rows in [("a", 2), ("b", 3)]
    ]
    adapters = GlobalAdapters(layouts, run_seed=1)
    adapters.apply({"width/w.V": torch.arange(8, dtype=torch.float64) + 0.001})
    return adapters


def test_a_model_type_downloads_and_holds_its_part():
    adapters = windowed()
    assert adapters.values["width/w.V"].shape == (4, 2)
    messages = adapters.messages("fp32", 0)
    assert {place: len(message) - HEADER_BYTES for (place, _), message in messages.items()} == {0: 16, 1: 24}
    assert torch.equal(adapters.of_model_type(0)["w.V"], adapters.values["width/w.V"][:2])
    assert torch.equal(adapters.held_by(1)["width/w.V"], adapters.values["width/w.V"][:3])


@pytest.mark.parametrize(("round_number", "rows"), [(1, [0, 1]), (3, [2, 3]), (4, [3, 0])])
def test_the_part_is_that_of_the_round_to_come(round_number, rows):
    adapters = windowed(rolling_axis=0)
    adapters.begin_round(round_number)
    assert torch.equal(adapters.of_model_type(0)["w.V"], adapters.values["width/w.V"][rows])


def test_what_nobody_downloads_stays_as_the_server_has_it_even_where_the_wire_rounds():
    adapters = windowed()
    exact = adapters.values["width/w.V"].clone()
    adapters.receive(adapters.messages("bf16", 0))
    assert torch.equal(adapters.exact["width/w.V"], exact)
    assert torch.equal(adapters.values["width/w.V"][3], exact[3])
    assert not torch.equal(adapters.values["width/w.V"][:3], exact[:3])
    assert torch.equal(adapters.values["width/w.V"][:3], exact[:3].bfloat16().float())


def test_what_is_redrawn_is_new_every_round_and_travels_up_only():
    fresh = TensorSpec("w.V", (2, 4), "type", "type/a/w.V", "g", "0", "kaiming", redrawn=True)
    layout = AdapterLayout("a", (fresh, TensorSpec("w.U", (4, 2), "type", "type/a/w.U", "h", "0")))
    adapters, other = (GlobalAdapters([layout], run_seed=1) for _ in range(2))
    assert adapters.messages("fp32", 0).keys() == {(0, "h")} and layout.num_travelling == 16
    adapters.apply({"type/a/w.V": torch.ones(8, dtype=torch.float64)})
    seen = []
    for round_number in (1, 2):
        adapters.begin_round(round_number)
        other.begin_round(round_number)
        assert torch.equal(adapters.values["type/a/w.V"], other.values["type/a/w.V"])
        seen.append(adapters.values["type/a/w.V"])
    assert not torch.equal(*seen) and all(value.abs().max() <= 0.5 for value in seen)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_what_a_checkpoint_holds_becomes_what_clients_had(tmp_path, codec):
    """The server's own values are saved; clients have what came down the wire."""
    adapters = GlobalAdapters(make_layouts(), run_seed=1)
    adapters.apply({"fleet/head.S": torch.arange(6, dtype=torch.float64) / 3})
    adapters.receive(adapters.messages(codec, 4))
    tensors = {f"values/{key}": value.clone() for key, value in adapters.exact.items()}
    again = GlobalAdapters(make_layouts(), run_seed=1)
    again.take_over(Checkpoint(4, tensors, {}, tmp_path), codec)
    assert again.sha256() == adapters.sha256()
    assert all(torch.equal(again.exact[key], value) for key, value in adapters.exact.items())
