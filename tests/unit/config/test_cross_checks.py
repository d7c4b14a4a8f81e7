"""Checks between sections, and that all problems are told at once."""

from __future__ import annotations

import re

import pytest

from heterotune.config.load import parse_run
from heterotune.config.overrides import apply_override
from heterotune.errors import ConfigError

RANKS = "fleet: adapter_rank differs among large and its siblings (large 4, large-2q 8), which share LoRA under "

CASES = [
    (["fleet.0.name=LARGE"], "fleet has 2 entries named large. Give each model type its own name."),
    (["fleet.2.siblings_of=larg"], "fleet.2.siblings_of = larg is not in the fleet. Did you mean large?"),
    (
        ["fleet.2.siblings_of=zzz"],
        "fleet.2.siblings_of = zzz is not in the fleet. There is: large, large-2q, small.",
    ),
    (["fleet.2.siblings_of=large-2q"], "fleet.2.siblings_of = large-2q is the entry itself. Name the model it was cut"),
    (
        ["fleet.0.siblings_of=large-2q"],
        "fleet.0.siblings_of = large-2q is itself a sibling of large. Name the model that both were cut from.",
    ),
    (["fleet.0.layers=[0, 3]"], "fleet.0.layers = [0, 3] needs siblings_of. Name the original, or drop layers."),
    (
        ["local.logit_adjustment=0.2", "strategy=depthfl"],
        "local.logit_adjustment = 0.2 does not go with strategy depthfl, whose loss is its own. Set it to null,",
    ),
    (
        ["local.logit_adjustment=0.2", "data.loss=all"],
        "local.logit_adjustment = 0.2 acts where an answer begins, and data.loss = all hides where. Set loss",
    ),
    (
        ["cohort.clients=40"],
        "cohort.clients = 40 is more than the fleet's 12 clients. Lower it, or add clients to fleet.",
    ),
    (["compare_with=[heterotune]"], "compare_with contains strategy = heterotune itself. Take it out of compare_with."),
    (
        ["compare_with=[fedavg_lora, fedavg_lora]"],
        "compare_with names fedavg_lora more than once. Name it once.",
    ),
    (["fleet.1.adapter_rank=4"], RANKS + "heterotune.lora_scope = width. Make them equal, or set lora_scope: type."),
    (["fleet.1.adapter_rank=4", "heterotune.lora_scope=split"], RANKS + "heterotune.lora_scope = split."),
    (
        ["fleet.1.adapter_rank=4", "strategy=fedavg_lora", "compare_with=[heterotune]"],
        RANKS + "heterotune.lora_scope = width.",
    ),
    (
        ["heterotune.adapter_rank=7", "heterotune.lora_scope=split"],
        "fleet: adapter_rank = 7 of large and its siblings cannot be halved for heterotune.lora_scope = split. Make",
    ),
    (["fleet.1.adapter_rank=4", "strategy=depthfl"], RANKS.replace("8)", "None)") + "depthfl. Make them equal."),
    (
        ["strategy=inclusivefl", "collective.topology=sharded"],
        "strategy inclusivefl needs whole sums in one place, and collective.topology = sharded spreads them. Set",
    ),
    (
        ["local.weight_decay=0.1", "compare_with=[fedavg_full]"],
        "local.weight_decay = 0.1 would pull fedavg_full's weights to the pre-trained ones, not to 0. Set it to 0, or",
    ),
]


def changed(run, overrides):
    for override in overrides:
        run = apply_override(run, override)
    return run


@pytest.mark.parametrize(("overrides", "message"), CASES, ids=[" ".join(overrides) for overrides, _ in CASES])
def test_one_mistake_gives_one_line(run, overrides, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)) as caught:
        parse_run(changed(run, overrides))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["cohort.clients=12"],
        ["fleet.2.layers=[0, 2, 5, 7]"],
        ["fleet.0.adapter_rank=4"],
        ["fleet.1.adapter_rank=4", "fleet.2.adapter_rank=4"],
        ["fleet.1.adapter_rank=4", "heterotune.lora_scope=type"],
        ["fleet.1.adapter_rank=4", "strategy=fedavg_lora"],
        ["fleet.0.adapter_rank=7", "heterotune.lora_scope=split"],
        ["heterotune.head_rank=0", "heterotune.head_basis=1"],
        ["compare_with=[fedavg_lora, fedavg_full]"],
        ["local.weight_decay=0.1", "compare_with=[fedavg_lora]"],
    ],
    ids=" ".join,
)
def test_what_is_allowed(run, overrides):
    parse_run(changed(run, overrides))


def test_all_problems_are_told_at_once(run):
    overrides = ["rounds=0", "seeed=1", "local.optimizer=adam", "fleet.2.siblings_of=larg", "cohort.clients=40"]
    with pytest.raises(ConfigError) as caught:
        parse_run(changed(run, overrides))
    starts = [
        "rounds = 0 ",
        "local.optimizer = 'adam' ",
        "seeed is ",
        "fleet.2.siblings_of = larg ",
        "cohort.clients =",
    ]
    assert [next(start for start in starts if line.startswith(start)) for line in caught.value.problems] == starts
    assert str(caught.value).count("\n") == 4
    assert caught.value.exit_code == 2


def test_a_check_is_left_out_when_its_section_is_unsound(run):
    with pytest.raises(ConfigError) as caught:
        parse_run(changed(run, ["fleet.0.clients=x", "cohort.clients=40"]))
    assert caught.value.problems == ("fleet.0.clients = 'x' is not an integer. Give an integer.",)


def test_what_data_decides_is_decided_before_checks_of_sound_sections(run):
    wrong = ["rounds=0", "heterotune.head_basis=8", "heterotune.head_rank=32"]
    with pytest.raises(ConfigError) as caught:
        parse_run(changed(run, wrong))
    first, second = caught.value.problems
    assert first.startswith("rounds = 0 ") and second.startswith("heterotune: head_basis = 8 is less than head_rank")
    answers = {"fields": {"text": "t", "label": "l", "labels": ["a", "b"]}, "public": "questions.jsonl"}
    with pytest.raises(ConfigError, match="^rounds = 0 [^\n]*$"):  # tokens of two labels are fewer anyway
        parse_run(changed({**run, "data": {"source": "rows.jsonl", **answers}}, wrong))
