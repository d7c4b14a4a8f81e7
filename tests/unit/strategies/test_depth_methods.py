"""DepthFL's exits and InclusiveFL's distilled last layers, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from heterotune.adapters.depth import depthfl_layout, inclusivefl_layout
from heterotune.backbone.exit_loss import ExitLoss
from heterotune.backbone.frozen_lm import EarlyExits
from heterotune.backbone.load import load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterogeneous_options import DepthflOptions, InclusiveflOptions
from heterotune.fleet.model_types import read_model_types
from heterotune.strategies.depthfl import distillation_weight
from heterotune.strategies.inclusivefl import combine
from heterotune.strategies.strategy import ServerRound, TypeUpdate

SHAPE = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=40,num_hidden_layers="
DEEP, MIDDLE, SHALLOW, OTHER = FLEET = read_model_types(
    (
        FleetEntry(name="deep", model=f"{SHAPE}4", clients=1),
        FleetEntry(name="middle", model=f"{SHAPE}3", clients=1, siblings_of="deep", layers=(0, 2, 3)),
        FleetEntry(name="shallow", model=f"{SHAPE}2", clients=1, siblings_of="deep", layers=(0, 3)),
        FleetEntry(name="other", model=f"{SHAPE}2", clients=1),
    )
)


@pytest.mark.parametrize("num_answers", [1, 2, 3])
def test_the_loss_of_exits_and_its_gradient_are_those_of_the_formula(num_answers):
    draw = torch.Generator().manual_seed(num_answers)
    hidden = torch.randn(num_answers, 7, 5, generator=draw, requires_grad=True)
    weight, targets = torch.randn(11, 5, generator=draw), torch.randint(11, (7,), generator=draw)
    per_token = torch.randn(7, generator=draw)
    losses = ExitLoss.apply(hidden, weight, targets, 0.3)
    (losses * per_token).sum().backward()
    ours, hidden.grad = hidden.grad.clone(), None
    logits = hidden @ weight.T
    expected = sum(F.cross_entropy(each, targets, reduction="none") for each in logits)
    for i in range(num_answers):
        for teacher in (logits[j] for j in range(num_answers) if j != i):
            target = torch.softmax(teacher, dim=-1).detach()
            divergence = F.kl_div(torch.log_softmax(logits[i], dim=-1), target, reduction="none").sum(dim=-1)
            expected = expected + 0.3 / (num_answers - 1) * divergence
    torch.testing.assert_close(losses, expected.detach())
    (expected * per_token).sum().backward()
    torch.testing.assert_close(ours, hidden.grad)


def test_a_model_answers_behind_the_layers_that_shallower_siblings_have():
    layouts = [depthfl_layout(DepthflOptions(), model_type, FLEET) for model_type in FLEET]
    assert [layout.exits for layout in layouts] == [(1, 2), (1,), (), ()]
    assert [{spec.scope for spec in layout.tensors} for layout in layouts] == [{"width"}] * 3 + [{"type"}]
    backbone = load_backbone(DEEP, ds_config=None, dtype="fp32", checkpointing=False, device=torch.device("cpu"))
    ids = torch.randint(40, (2, 6), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, dims=1)
    losses = backbone.lm(ids, targets, early=EarlyExits((1, 2), 0.0))
    states = backbone.llama(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    answers = [backbone.llama.norm(states[2]), backbone.llama.norm(states[3]), states[4]]  # the last is normed already
    expected = sum(
        F.cross_entropy((answer @ backbone.lm.head.weight.T).flatten(0, 1), targets.flatten(), reduction="none")
        for answer in answers
    )
    torch.testing.assert_close(losses.flatten(), expected)


def test_distillation_ramps_up_to_its_weight():
    options = DepthflOptions(distillation=2.0, ramp_rounds=10)
    assert distillation_weight(options, 5) == pytest.approx(2.0 * math.exp(-1.25))
    assert distillation_weight(options, 10) == distillation_weight(options, 99) == 2.0


def updates_of(layouts):
    draw = torch.Generator().manual_seed(2)
    return [
        TypeUpdate(
            layout.model_type,
            weight,
            {s.key: torch.randn(s.num_elements, generator=draw, dtype=torch.float64) for s in layout.travelling},
        )
        for weight, layout in zip((30, 10, 20, 5), layouts, strict=True)
    ]


def test_a_last_layer_learns_from_the_next_deeper_siblings_layers_above_it():
    layouts = [inclusivefl_layout(InclusiveflOptions(), model_type, FLEET) for model_type in FLEET]
    updates = updates_of(layouts)
    server = ServerRound(layouts={layout.model_type: layout for layout in layouts})
    change = combine(updates, server, share=0.2).change
    deep, middle, shallow, other = (update.mean for update in updates)
    own = "type/shallow/layers.1.mlp.up_proj.type.U"
    above = [middle["width/deep/layers.2.mlp.up_proj.width.U"], middle["type/middle/layers.2.mlp.up_proj.type.U"]]
    torch.testing.assert_close(change[own], 0.8 * shallow[own] + 0.2 * (above[0] + above[1]) / 2)
    last = "type/deep/layers.3.mlp.up_proj.type.U"
    assert torch.equal(change[last], deep[last])
    shared = "width/deep/layers.0.mlp.up_proj.width.U"
    torch.testing.assert_close(change[shared], (30 * deep[shared] + 10 * middle[shared] + 20 * shallow[shared]) / 60)
    assert all(torch.equal(change[key], mean) for key, mean in other.items())


def test_a_last_layer_whose_deeper_sibling_is_away_keeps_its_own_mean():
    layouts = [inclusivefl_layout(InclusiveflOptions(), model_type, FLEET) for model_type in FLEET]
    server = ServerRound(layouts={layout.model_type: layout for layout in layouts})
    shallow = updates_of(layouts)[2]
    change = combine([shallow], server, share=0.2).change
    assert all(torch.equal(change[key], mean) for key, mean in shallow.mean.items())


def test_of_equally_deep_siblings_the_one_that_is_there_teaches():
    twin = read_model_types(
        (FleetEntry(name="twin", model=f"{SHAPE}3", clients=1, siblings_of="deep", layers=(0, 1, 3)),)
    )
    fleet = (*FLEET[:3], *twin)
    layouts = [inclusivefl_layout(InclusiveflOptions(), model_type, fleet) for model_type in fleet]
    server = ServerRound(layouts={layout.model_type: layout for layout in layouts})
    _, _, shallow, found = updates_of(layouts)  # "middle", as deep as "twin", is away
    own = "type/shallow/layers.1.mlp.up_proj.type.U"
    assert not torch.equal(combine([shallow, found], server, share=0.2).change[own], shallow.mean[own])
