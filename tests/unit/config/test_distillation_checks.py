"""Distillation and alignment that could only harm, or do nothing, are refused, unless the run has begun."""

from __future__ import annotations

import re

import pytest

from heterotune.config.load import load_run, parse_run
from heterotune.config.overrides import apply_override
from heterotune.config.yaml_text import write_yaml
from heterotune.errors import ConfigError

SGD = "local.optimizer=sgd"


@pytest.fixture
def label_task(run):
    """Two unlike model types that learn from one another by default."""
    fields = {"text": "text", "label": "label"}
    return {
        **run,
        "rounds": 8,
        "fleet": run["fleet"][:2],
        "data": {"source": "rows.jsonl", "fields": fields, "public": "questions.jsonl"},
    }


def changed(values, overrides):
    for override in overrides:
        values = apply_override(values, override)
    return values


SIBLINGS = 'fleet.1={"name": "small-2", "model": "embedded:small", "siblings_of": "small", "clients": 2}'
ALONE = 'fleet=[{"name": "small", "model": "embedded:small", "clients": 2}]'

MISTAKES = [
    (
        [SGD, "heterotune.distill_steps=8"],
        "heterotune.distill_steps = 8 are steps of AdamW at a share of local.learning_rate, which is a rate for "
        "local.optimizer = sgd. Set distill_steps to auto or 0, or local.optimizer to adamw.",
    ),
    (
        [SIBLINGS, "heterotune.head_scope=width", "heterotune.distill_every=4"],
        "heterotune.distill_every = 4 lets model types learn from one another, but all are siblings: under head_scope "
        "= width they share one head, where that undoes what sharing gained. Set head_scope: type, or distill_every to "
        "auto or 0.",
    ),
    (
        [ALONE, "heterotune.distill_every=4"],
        "heterotune.distill_every = 4 lets model types learn from one another, and the fleet has one. Set "
        "distill_every to auto or 0, or add a model type.",
    ),
    *(
        (
            [f"heterotune.{key}=9"],
            f"heterotune.{key} = 9 is more than rounds = 8, so it would do nothing. Lower it, raise rounds, or set it "
            f"to {way_out}.",
        )
        for key, way_out in {"distill_every": "auto or 0", "realign_every": "0"}.items()
    ),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=[" ".join(overrides) for overrides, _ in MISTAKES])
def test_it_is_refused_before_a_run_begins(label_task, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        parse_run(changed(label_task, overrides))
    path = tmp_path / "run.yaml"
    path.write_text(write_yaml(label_task), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_run(path, [*overrides, "seed=x"])  # beside a mistake of a single key
    load_run(path, overrides, begun=True)


@pytest.mark.parametrize(
    "overrides",
    [
        [SGD],
        ["heterotune.distill_steps=8"],
        [SGD, "heterotune.distill_steps=0"],
        [SGD, "heterotune.distill_steps=8", "heterotune.distill_every=0"],
        [SGD, "heterotune.distill_steps=8", "strategy=fedavg_lora"],
        [SIBLINGS, "heterotune.distill_every=4"],
        [ALONE],
        ["heterotune.distill_every=8", "heterotune.realign_every=8"],
        ["heterotune.distill_every=9", "heterotune.realign_every=9", "strategy=fedavg_lora"],
        ["rounds=2"],
        [SIBLINGS, "heterotune.head_scope=width"],
        ["heterotune.head_scope=width", "heterotune.distill_every=4"],
    ],
    ids=" ".join,
)
def test_what_does_no_harm_is_allowed(label_task, overrides):
    parse_run(changed(label_task, overrides))


def test_a_written_run_has_the_steps_that_auto_became(label_task):
    steps = [parse_run(changed(label_task, each)).model_dump()["heterotune"]["distill_steps"] for each in ([], [SGD])]
    assert steps == [32, 0]
