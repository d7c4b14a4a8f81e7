"""What each strategy's table of scopes says, and what its server does with exact means."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch

from heterotune.adapters.tables import adapter_layout
from heterotune.config.field_types import StrategyName
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import read_model_types
from heterotune.strategies import make_strategy
from heterotune.strategies.strategy import ServerRound, TypeUpdate

FLEET = read_model_types(
    tuple(
        FleetEntry(name=name, model=f"embedded:{name}", clients=2, siblings_of=base)
        for name, base in [("small", None), ("large", None), ("large-3q", "large"), ("large-2q", "large")]
    )
)
SMALL, LARGE, THREE, TWO = FLEET


def strategy_of(name, **options):
    """Return a method under some of its options."""
    run = {
        "name": "tables",
        "rounds": 1,
        "fleet": [{"name": "small", "model": "embedded:small", "clients": 1}],
        "data": {"source": "embedded:stdlib"},
        name: options,
    }
    return make_strategy(name, RunConfig.model_validate(run))


def layouts(strategy):
    return [strategy.layout(model_type, FLEET) for model_type in FLEET]


def keys(layout):
    return {spec.key for spec in layout.travelling}


def test_fedavg_shares_nothing_between_types():
    found = layouts(strategy_of("fedavg_lora"))
    assert all(spec.scope == "type" for layout in found for spec in layout.tensors)
    assert all(keys(a).isdisjoint(keys(b)) for a in found for b in found if a is not b)
    assert len(found[1].branches) == LARGE.num_layers * 7


@pytest.mark.parametrize("model_type", FLEET, ids=lambda model_type: model_type.name)
def test_a_whole_model_is_every_parameter_once(model_type):
    found = strategy_of("fedavg_full").layout(model_type, FLEET)
    assert found.num_travelling == model_type.num_parameters
    assert {spec.init for spec in found.tensors} == {"zeros"} and {spec.scope for spec in found.tensors} == {"type"}
    assert found.output_embedding == "embed_tokens.weight"  # tied: one tensor, two uses
    blocks = {f"full.layers.{n}.{block}" for n in range(model_type.num_layers) for block in ("attention", "mlp")}
    assert set(found.group_columns) == blocks | {"full.embedding", "full.norm"}


def test_an_untied_head_and_biases_are_parameters_of_their_own():
    shape = "random:hidden_size=16,intermediate_size=24,num_hidden_layers=1,num_attention_heads=2"
    flags = "tie_word_embeddings=false,attention_bias=true,mlp_bias=true"
    untied = read_model_types((FleetEntry(name="untied", model=f"{shape},{flags}", clients=1),))[0]
    found = strategy_of("fedavg_full", learning_rate_scale=0.1).layout(untied, (untied,))
    assert found.output_embedding == "lm_head.weight" not in found.dense and "full.lm_head" in found.group_columns
    biases = {spec.name: spec.shape for spec in found.tensors if spec.name.endswith("bias")}
    assert len(biases) == 7 and biases["layers.0.mlp.up_proj.bias"] == (24,)
    assert {spec.learning_rate_scale for spec in found.tensors} == {0.1}


def test_siblings_share_their_lora_by_original_layer_and_all_share_the_head():
    small, large, three, two = layouts(strategy_of("heterotune"))
    assert keys(two) <= keys(large) and keys(three) <= keys(large)
    assert keys(small) & keys(large) == {"fleet/head.S"}
    second = TWO.original_layers[1]
    spec = next(spec for spec in two.tensors if spec.name == "layers.1.self_attn.q_proj.width.V")
    assert spec.key == f"width/large/layers.{second}.self_attn.q_proj.width.V" and spec.depth_class == str(second)
    assert {spec.scope for spec in small.tensors} == {"type", "fleet"}


@pytest.mark.parametrize(
    ("scope", "owners"),
    [("fleet", ["fleet"] * 4), ("width", ["type/small", *["width/large"] * 3]), ("type", None)],
)
def test_the_heads_scope_decides_who_shares_its_core_and_nothing_else(scope, owners):
    strategy = strategy_of("heterotune", head_scope=scope)
    cores = [next(spec for spec in layout.tensors if spec.name == "head.S") for layout in layouts(strategy)]
    owners = owners or [f"type/{model_type.name}" for model_type in FLEET]
    assert [spec.key for spec in cores] == [f"{owner}/head.S" for owner in owners]
    assert [spec.scope for spec in cores] == [owner.split("/")[0] for owner in owners]
    assert {(spec.shape, spec.group, spec.depth_class) for spec in cores} == {((33, 64), "dema.head", "head")}


def test_split_gives_half_of_the_rank_to_each_scope():
    large = strategy_of("heterotune", lora_scope="split").layout(LARGE, FLEET)
    shapes = {spec.name: spec.shape for spec in large.tensors}
    assert shapes["layers.0.self_attn.q_proj.width.V"] == shapes["layers.0.self_attn.q_proj.type.V"] == (4, LARGE.width)
    assert {branch.scale for branch in large.branches} == {2.0}


def test_lora_within_types_and_no_head_is_fedavg():
    options = {"lora_scope": "type", "head_rank": 0}
    ours, plain = strategy_of("heterotune", **options).layout(TWO, FLEET), strategy_of("fedavg_lora").layout(TWO, FLEET)
    assert [spec.shape for spec in ours.tensors] == [spec.shape for spec in plain.tensors]
    assert ours.head is None


def test_lora_may_be_in_a_models_last_layers_only_or_nowhere():
    two = strategy_of("heterotune", lora_layers=1).layout(TWO, FLEET)
    assert {branch.module.split(".")[1] for branch in two.branches} == {str(TWO.num_layers - 1)}
    assert {spec.depth_class for spec in two.tensors} == {str(TWO.original_layers[-1]), "head"}
    deep = strategy_of("heterotune", lora_layers=99).layout(TWO, FLEET)
    assert deep == strategy_of("heterotune").layout(TWO, FLEET)
    assert [spec.name for spec in strategy_of("heterotune", lora_layers=0).layout(TWO, FLEET).tensors] == ["head.S"]


def test_personal_branches_never_travel():
    large = strategy_of("heterotune", personal_rank=2).layout(LARGE, FLEET)
    personal = [spec for spec in large.tensors if spec.scope == "client"]
    assert len(personal) == 2 * 7 * LARGE.num_layers
    assert not {spec.name for spec in personal} & {spec.name for spec in large.travelling}
    assert "dema.client" not in large.group_columns


def test_trained_gates_start_at_one():
    small = strategy_of("heterotune", gates="trained").layout(SMALL, FLEET)
    gates = [spec for spec in small.tensors if spec.name.endswith("gate")]
    assert len(gates) == len(small.branches) and all(spec.init == "ones" for spec in gates)
    assert all(branch.gate for branch in small.branches)


def test_a_models_own_rank_overrides_the_strategys():
    tiny = read_model_types((FleetEntry(name="small", model="embedded:small", clients=1, adapter_rank=3),))[0]
    for strategy in (strategy_of("fedavg_lora"), strategy_of("heterotune")):
        shapes = {spec.name.rsplit(".", 1)[-1]: spec.shape for spec in strategy.layout(tiny, [tiny]).tensors}
        assert shapes["V"][0] == 3


def updates_for(found, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        TypeUpdate(
            layout.model_type,
            10 * (place + 1),
            {s.key: torch.randn(s.num_elements, generator=draw, dtype=torch.float64) for s in layout.travelling},
        )
        for place, layout in enumerate(found)
    ]


def server_of(found):
    return ServerRound(tensors=specs_of(found))


def specs_of(found):
    return {spec.key: spec for layout in found for spec in layout.travelling}


@pytest.mark.parametrize("strategy", [strategy_of("fedavg_lora"), strategy_of("fedavg_full")], ids=lambda s: s.name)
def test_fedavg_adds_each_types_exact_mean(strategy):
    found = layouts(strategy)
    updates = updates_for(found)
    change = strategy.combine(updates, server_of(found)).change
    for update in updates:
        assert all(torch.equal(change[key], mean) for key, mean in update.mean.items())


@pytest.mark.parametrize("granularity", ["tensor", "depth_class", "branch", "model"])
def test_every_key_is_combined_once_whatever_the_granularity(granularity):
    strategy = strategy_of("heterotune", cmga_granularity=granularity)
    found = layouts(strategy)
    combined = strategy.combine(updates_for(found), server_of(found))
    assert set(combined.change) == set(specs_of(found))
    assert all(combined.change[key].shape == (spec.num_elements,) for key, spec in specs_of(found).items())
    assert {entry["name"] for entry in combined.metrics} >= {"cmga/cosine", "cmga/conflicts", "cmga/weight"}


def test_without_cmga_or_conflict_the_result_is_the_weighted_mean():
    plain, aligned = strategy_of("heterotune", cmga="none"), strategy_of("heterotune")
    found = layouts(plain)
    agreeing = [
        TypeUpdate(u.model_type, u.weight, {key: mean.abs() for key, mean in u.mean.items()})
        for u in updates_for(found)
    ]
    expected = plain.combine(agreeing, server_of(found)).change
    change = aligned.combine(agreeing, server_of(found)).change
    assert all(torch.equal(change[key], expected[key]) for key in expected)
    key = "fleet/head.S"
    by_hand = sum(u.weight * u.mean[key] for u in agreeing) / sum(u.weight for u in agreeing)
    torch.testing.assert_close(expected[key], by_hand)


def test_two_types_that_conflict_are_both_served():
    strategy = strategy_of("heterotune", lora_scope="type")
    found = [strategy.layout(model_type, FLEET) for model_type in (SMALL, LARGE)]
    updates = updates_for(found, seed=3)
    key = "fleet/head.S"
    updates[1].mean[key].copy_(-0.9 * updates[0].mean[key] + 0.1 * updates[1].mean[key])
    change = strategy.combine(updates, server_of(found)).change[key]
    assert all(torch.dot(change, update.mean[key]) >= 0 for update in updates)


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_the_tables_without_torch_are_those_of_the_strategies(name):
    config = RunConfig.model_validate(
        {
            "name": "tables",
            "rounds": 1,
            "fleet": [{"name": "small", "model": "embedded:small", "clients": 1}],
            "data": {"source": "embedded:stdlib"},
            "fedproto": {"num_classes": 3},
        }
    )
    strategy = make_strategy(name, config)
    for model_type in FLEET:
        assert adapter_layout(name, config, model_type, FLEET) == strategy.layout(model_type, FLEET)


def test_the_tables_load_no_torch():
    program = "import sys, heterotune.adapters.tables; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
