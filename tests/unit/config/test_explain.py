"""Every rule of the schema has a message that names key, value, rule and a way out."""

from __future__ import annotations

import re

import pytest

from heterotune.config.load import parse_run
from heterotune.config.methods import METHODS
from heterotune.config.nearest import nearest, suggestion
from heterotune.config.overrides import apply_override
from heterotune.errors import ConfigError

# (override of the valid run, the whole message or its start)
CASES = [
    ("name=a/b", "name = 'a/b' has characters that do not fit a file name. Give only letters, digits, dots, "),
    (f"name={'x' * 101}", "name = 'xxx"),
    ("name=", "name = null is not text. Give text, in quotes if it looks like a number."),
    ("rounds=0", "rounds = 0 is too small. Give at least 1."),
    ("rounds=true", "rounds = true is not an integer. Give an integer."),
    ("rounds=2.0", "rounds = 2.0 is not an integer. Give an integer."),
    ('rounds="2"', "rounds = '2' is not an integer. Give an integer."),
    ("rounds=99999999999", "rounds = 99999999999 is too large. Give at most 2147483647."),
    ("seed=-1", "seed = -1 is too small. Give at least 0."),
    ("seed=9223372036854775808", "seed = 9223372036854775808 is too large. Give at most 9223372036854775807."),
    ("output=[1]", "output = [1] is not a path. Give a path, in quotes if it looks like a number."),
    ("threads_per_rank=0", "threads_per_rank = 0 is too small. Give at least 1, or 'auto'."),
    ("threads_per_rank=all", "threads_per_rank = 'all' is not an integer. Give an integer, or 'auto'."),
    ("watchdog_seconds=0", "watchdog_seconds = 0 is too small. Give at least 1."),
    ("fleet=[]", "fleet = [] has too few entries. Give at least 1."),
    ("fleet=small", "fleet = 'small' is not a list. Give a list."),
    ("fleet.0=small", "fleet.0 = 'small' is not a mapping. Give a mapping of keys to values."),
    ("fleet.0.clients=0", "fleet.0.clients = 0 is too small. Give at least 1."),
    ("fleet.0.model=''", "fleet.0.model = '' is empty. Give at least 1 character."),
    ("fleet.0.model='embedded:'", "fleet.0.model = 'embedded:' names no model. Write embedded:small, for example."),
    ("fleet.0.model='random:a=1'", "fleet.0.model = 'random:a=1' has the unknown key a. "),
    (
        "fleet.2.layers=[0, 2, 2]",
        "fleet.2.layers = [0, 2, 2] is not strictly increasing. List each original layer once",
    ),
    ("fleet.2.layers=[]", "fleet.2.layers = [] is not strictly increasing."),
    ("fleet.2.layers=[-1]", "fleet.2.layers.0 = -1 is too small. Give at least 0."),
    ("fleet.0.adapter_rank=0", "fleet.0.adapter_rank = 0 is too small. Give at least 1."),
    ("fleet.0.client=3", "fleet.0.client is not a known key. Did you mean clients?"),
    ("data.max_tokens=7", "data.max_tokens = 7 is too small. Give at least 8."),
    ("data.heldout_fraction=0", "data.heldout_fraction = 0 is too small. Give more than 0.0."),
    ("data.heldout_fraction=0.6", "data.heldout_fraction = 0.6 is too large. Give at most 0.5."),
    ("data.fields={prompt: q}", "data.fields.response is missing. Add it: Name of the field that holds the response."),
    ("data.fields={text: a, prompt: q}", "data.fields: text excludes prompt and response. Give {text: name} or"),
    ("data.fields=body", "data.fields = 'body' is not a mapping. Give a mapping of keys to values."),
    ("data.partition.by=label", "data.partition.by = 'label' is not a choice. Give 'natural', 'iid', 'dirichlet', "),
    ("data.partition.alpha=0", "data.partition.alpha = 0 is too small. Give more than 0.0."),
    ("data.empty_client=skip", "data.empty_client = 'skip' is not a choice. Give 'error' or 'drop'."),
    (
        "cohort={fraction: 0.5, clients: 3}",
        "cohort: fraction = 0.5 and clients = 3 exclude each other. Set one to null.",
    ),
    ("cohort.fraction=1.5", "cohort.fraction = 1.5 is too large. Give at most 1.0."),
    ("local={steps: 5, epochs: 1}", "local: steps = 5 and epochs = 1 exclude each other. Set one to null."),
    ("local={steps: 5, warmup_steps: 6}", "local: warmup_steps = 6 is more than the 5 steps of a round. Lower it, or "),
    ("local.learning_rate=.inf", "local.learning_rate = inf is not a finite number. Give a finite number."),
    ("local.learning_rate=fast", "local.learning_rate = 'fast' is not a number. Give a number."),
    ("local.momentum=1", "local.momentum = 1 is too large. Give less than 1.0."),
    ("local.betas=[0.9]", "local.betas.1 is missing. Add it: Decay of the first and second moment"),
    ("local.betas=[0.9, 0.9, 0.9]", "local.betas = [0.9, 0.9, 0.9] has too many entries. Give at most 2."),
    ("local.clip_norm=0", "local.clip_norm = 0 is too small. Give more than 0.0."),
    ("strategy=fedavg_lor", "strategy = 'fedavg_lor' is not a choice. Did you mean fedavg_lora?"),
    ("strategy=xyz", f"strategy = 'xyz' is not a choice. Give {', '.join(map(repr, [*METHODS][:-1]))} or "),
    ("heterotune.targets=all", "heterotune.targets = 'all' is not a choice. Give 'all-linear', or a list."),
    ("heterotune.targets=[q_proj, x]", "heterotune.targets.1 = 'x' is not a choice. Give 'q_proj', 'k_proj', "),
    ("heterotune.targets=[]", "heterotune.targets = [] leaves nothing to train. Name at least one linear layer, "),
    ("fedavg_lora.targets=[q_proj, q_proj]", "fedavg_lora.targets = ['q_proj', 'q_proj'] repeats a layer. Name each "),
    (
        "heterotune={head_basis: 8, head_rank: 32}",
        "heterotune: head_basis = 8 is less than head_rank = 32, so part of the rank could do ",
    ),
    (
        "heterotune={lora_layers: 0, head_rank: 0}",
        "heterotune: lora_layers = 0 and head_rank = 0 leave nothing to train",
    ),
    (
        "heterotune={lora_layers: 0, personal_rank: 2}",
        "heterotune: personal_rank = 2 is the rank of branches in layers",
    ),
    ("heterotune={realign_every: 2, head_rank: 0}", "heterotune: realign_every = 2 aligns the head branch anew, and "),
    ("heterotune.lora_layers=some", "heterotune.lora_layers = 'some' is not an integer. Give an integer, or 'all'."),
    ("heterotune.cmga_rescale=1", "heterotune.cmga_rescale = 1 is not true or false. Give true or false."),
    ("backbone.group=nodes", "backbone.group = 'nodes' is not a choice. Give 'world', 'node' or 'rank'."),
    ("chunk.of_type.smal=3", "chunk.of_type.smal is not in the fleet. Did you mean small?"),
    ("chunk.clients=many", "chunk.clients = 'many' is not an integer. Give an integer, or 'auto'."),
    ("evaluate=", "evaluate = null is not a mapping. Give a mapping of keys to values."),
    (
        "evaluate.metrics=[accuracy]",
        "evaluate.metrics = ['accuracy'] leaves out the loss, by which the best checkpoint ",
    ),
    ("evaluate.metrics=[loss, loss]", "evaluate.metrics = ['loss', 'loss'] repeats a metric. Name each metric once."),
    ("evaluate.metrics=all", "evaluate.metrics = 'all' is not a choice. Give 'auto', or a list."),
    (
        "evaluate.metrics=[loss, bleu]",
        "evaluate.metrics.1 = 'bleu' is not a choice. Give 'loss', 'accuracy' or 'exact_",
    ),
    ("evaluate.max_new_tokens=0", "evaluate.max_new_tokens = 0 is too small. Give at least 1."),
    ("tensorboard=1", "tensorboard = 1 is not true or false. Give true or false."),
    ("strateggy=heterotune", "strateggy is not a known key. Did you mean strategy?"),
    ("learning_rate=1e-3", "learning_rate is not a known key. Did you mean local.learning_rate?"),
    ("batch_size=1", "batch_size is not a known key. Did you mean local.batch_size or evaluate.batch_size?"),
    ("zzz=1", "zzz is not a known key. Known here: name, seed, rounds, "),
]


@pytest.mark.parametrize(("override", "message"), CASES, ids=[override[:40] for override, _ in CASES])
def test_one_mistake_gives_one_line(run, override, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)) as caught:
        parse_run(apply_override(run, override))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].endswith((".", "?"))


def test_missing_keys_are_described():
    with pytest.raises(ConfigError) as caught:
        parse_run({})
    assert caught.value.problems == (
        "name is missing. Add it: Start of the run folder's name; letters, digits, dots, dashes, underscores.",
        "rounds is missing. Add it: Federation rounds, at least 1.",
        "fleet is missing. Add it: The model types, 1 to 1000, with unique names.",
        "data is missing. Add it: Which text the clients hold.",
    )


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2]])
def test_a_run_that_is_no_mapping(value):
    with pytest.raises(ConfigError, match="A run is a mapping of keys to values, not "):
        parse_run(value)


def test_keys_that_are_not_text(run):
    with pytest.raises(ConfigError, match="^3 is not a known key. Known here: name"):
        parse_run({**run, 3: 4})


def test_an_error_without_a_rule_of_ours_still_says_something(run):
    with pytest.raises(
        ConfigError, match="name = .* is refused: Input should be a valid string.* It should be: Start of"
    ):
        parse_run({**run, "name": "\ud800"})


def test_long_values_and_keys_stay_on_one_line(run):
    run["a\nb"] = 1
    run["rounds"] = [["x" * 500] * 500] * 500
    with pytest.raises(ConfigError) as caught:
        parse_run(run)
    assert all(len(problem) < 400 and "\n" not in problem for problem in caught.value.problems)


def test_nearest_and_suggestion():
    assert nearest("Steps", ["steps", "epochs"]) == "steps"
    assert nearest("zebra", ["steps", "epochs"]) is None
    assert suggestion("epoch", ["steps", "epochs"]) == "Did you mean epochs?"
    assert suggestion("zebra", ["steps", "epochs"]) == "There is: epochs, steps."
