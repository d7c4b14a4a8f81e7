from __future__ import annotations

import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
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
    messages = adapters.messages("fp32")
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
