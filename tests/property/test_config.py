"""Whatever is done to a run file, the answer is a run or a ConfigError, and a run survives being written."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterotune.config.load import dump_run, load_run, parse_run
from heterotune.config.schema import RunConfig
from heterotune.config.yaml_text import read_yaml, write_yaml
from heterotune.errors import ConfigError

RUN = {
    "name": "trial",
    "rounds": 2,
    "fleet": [
        {"name": "small", "model": "embedded:small", "clients": 4, "adapter_rank": 4},
        {"name": "large", "model": "random:hidden_size=64,num_attention_heads=4", "clients": 6, "siblings_of": None},
        {"name": "large-2q", "model": "embedded:large-2q", "siblings_of": "large", "clients": 2, "layers": [0, 7]},
    ],
    "data": {"source": "here.jsonl", "fields": {"prompt": "q", "response": "a"}, "partition": {"by": "iid"}},
    "cohort": {"fraction": 0.5, "clients": None},
    "local": {"steps": 3, "betas": [0.9, 0.99], "clip_norm": None},
    "heterotune": {"targets": ["q_proj", "v_proj"], "lora_scope": "type"},
    "compare_with": ["fedavg_lora"],
    "chunk": {"clients": "auto"},
    "threads_per_rank": 1,
}

WORDS = ["auto", "none", "small", "large", "random:", "random:seed=1", "embedded:", "q_proj", "split", "heterotune", ""]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS), st.just(10**30)
)
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(sorted(RunConfig.model_fields)), st.integers(-1, 3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


def containers(value):
    """Yield every dict and list inside a value, itself first."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@st.composite
def mutated_runs(draw):
    """A valid run with one to three values replaced, added or removed."""
    run = copy.deepcopy(RUN)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(containers(run))))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "add" or not keys:
            key, value = draw(KEYS), draw(VALUES)
            place.update({key: value}) if isinstance(place, dict) else place.append(value)
        elif action == "remove":
            del place[draw(st.sampled_from(keys))]
        else:
            place[draw(st.sampled_from(keys))] = draw(VALUES)
    return run


def outcome(read):
    """Return the run, or check that the refusal is a usable one."""
    try:
        return read()
    except ConfigError as error:
        assert error.problems
        assert all(problem.strip() and "\n" not in problem for problem in error.problems)
        return None


@settings(deadline=None)
@given(mutated_runs())
def test_a_mutated_mapping_gives_a_run_that_survives_writing_or_a_config_error(run):
    config = outcome(lambda: parse_run(run))
    if config is not None:
        assert parse_run(read_yaml(dump_run(config), "dump")[0]) == config


@settings(deadline=None)
@given(VALUES)
def test_any_value_instead_of_a_run_is_refused(value):
    with pytest.raises(ConfigError):
        parse_run(value)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    """Where the examples below write their text."""
    return tmp_path_factory.mktemp("runs") / "run.yaml"


@settings(deadline=None)
@given(data=st.data())
def test_mutated_text_gives_a_run_or_a_config_error(run_file, data):
    text = write_yaml(RUN)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    piece = data.draw(st.text(alphabet="{}[]:,-&*!|>'\"%@`#?<= \n\tax1.0\x00", max_size=6) | st.text(max_size=6))
    run_file.write_bytes((text[:start] + piece + text[end:]).encode())
    outcome(lambda: load_run(run_file))


@settings(deadline=None)
@given(st.text(alphabet="fleet.rounds=0123-[]{}:,'\"!&* x\n", max_size=24))
def test_any_override_gives_a_run_or_a_config_error(run_file, override):
    run_file.write_text(write_yaml(RUN), encoding="utf-8")
    outcome(lambda: load_run(run_file, [override]))


@settings(deadline=None)
@given(
    st.recursive(SCALARS.filter(lambda x: x == x), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_yaml_text_round_trip(value):
    assert read_yaml(write_yaml(value), "t") == (value, [])
