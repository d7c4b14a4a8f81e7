"""The schema itself: defaults, descriptions, frozenness."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from heterotune.config import field_types, method_options, schema
from heterotune.config.cohort_options import CohortConfig
from heterotune.config.load import parse_run
from heterotune.config.method_options import LocalConfig
from heterotune.config.methods import METHODS
from heterotune.config.row_fields import PromptFields, TextFields
from heterotune.config.schema import RunConfig

MODELS = sorted(
    {
        value
        for module in (schema, method_options)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value is not field_types.Section
    },
    key=lambda model: model.__name__,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model):
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description and info.description.strip().endswith("."), name


def test_all_sections_were_found():
    assert len(MODELS) > 20 and set(RunConfig.model_fields) >= set(METHODS)
    assert {type(RunConfig.model_fields[name].default) for name in METHODS} <= set(MODELS)


def test_defaults(run):
    config = parse_run(run)
    assert config.num_clients == 12
    assert (config.seed, config.output, config.threads_per_rank, config.watchdog_seconds) == (
        0,
        Path("runs"),
        "auto",
        600,
    )
    assert (config.strategy, config.compare_with) == ("heterotune", ())
    assert (config.cohort.fraction, config.cohort.clients) == (1.0, None)
    assert (config.local.steps, config.local.epochs, config.local.betas) == (10, None, (0.9, 0.999))
    assert (config.heterotune.lora_scope, config.heterotune.align) == ("width", "gcca")
    assert config.heterotune.head_rank == "auto"  # until the models' widths are known
    assert (config.backbone.ds_config, config.chunk.clients, config.chunk.max_clients) == ("zero3_cpu", "auto", 32)
    assert (config.data.max_tokens, config.data.partition.by, config.data.fields) == (128, "natural", None)
    assert config.fleet[2].siblings_of == "large"


def test_models_are_frozen(run):
    config = parse_run(run)
    with pytest.raises(ValidationError, match="frozen"):
        config.rounds = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.fleet[0].clients = 3


def test_the_run_is_not_changed_by_parsing(run):
    run["cohort"], run["local"] = {}, {"batch_size": 2}
    before = repr(run)
    parse_run(run)
    assert repr(run) == before


@pytest.mark.parametrize("given", [{}, {"steps": None}, {"epochs": None, "steps": None}])
def test_steps_default_only_when_nothing_is_said(given):
    assert LocalConfig(**given).steps == 10
    assert LocalConfig(**{**given, "epochs": 2}).steps is None


def test_fraction_defaults_only_when_nothing_is_said():
    assert CohortConfig().fraction == 1.0
    assert CohortConfig(clients=3).fraction is None
    assert CohortConfig(fraction=0.5).clients is None


def test_row_fields_are_told_by_their_keys(run):
    run["data"]["fields"] = {"text": "body"}
    assert parse_run(run).data.fields == TextFields(text="body")
    run["data"]["fields"] = {"prompt": "q", "response": "a"}
    assert parse_run(run).data.fields == PromptFields(prompt="q", response="a")


def test_adapter_rank_of_an_entry_overrides_the_strategys(run):
    run["fleet"][0]["adapter_rank"] = 3
    config = parse_run(run)
    assert [entry.adapter_rank_under(config.heterotune) for entry in config.fleet] == [3, 8, 8]


@pytest.mark.parametrize(
    ("data", "distill_every"),
    [
        ({"fields": {"text": "query", "label": "intent"}, "public": "questions.jsonl"}, 2),  # as many as rounds
        ({"fields": {"text": "query", "label": "intent"}}, 0),
        ({"fields": {"text": "query", "label": "intent"}, "public": "embedded:stdlib"}, 0),
        ({"fields": {"text": "query"}, "public": "questions.jsonl"}, 0),
        ({"source": {"path": "a", "fields": {"text": "q", "label": "i"}}, "public": "questions.jsonl"}, 0),
        ({"public": "questions.jsonl"}, 0),
    ],
)
def test_heads_learn_from_one_another_where_public_questions_ask_for_classes(run, data, distill_every):
    config = parse_run({**run, "data": {"source": "rows.jsonl", **data}})
    assert config.heterotune.distill_every == distill_every
    assert parse_run(config.model_dump(mode="json")) == config


def test_built_from_models_as_from_a_mapping(run):
    config = parse_run(run)
    again = RunConfig(name="trial", rounds=2, fleet=config.fleet, data=config.data)
    assert again == config
