"""Whether a run is the one that a checkpoint belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from heterotune.checkpoint import Checkpoint
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError
from heterotune.resuming import check_same_run

RUN = {
    "name": "tiny",
    "rounds": 4,
    "fleet": [{"name": "small", "model": "embedded:small", "clients": 2}],
    "data": {"source": "embedded:stdlib"},
}

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2] / "engine"), "PATH": os.environ["PATH"]}


def saved(**changes: object) -> Checkpoint:
    """A checkpoint of RUN with changes, after 3 rounds."""
    return Checkpoint(3, {}, {"config": config(**changes).model_dump(mode="json")}, Path("clients"))


def config(**changes: object) -> RunConfig:
    return parse_run({**RUN, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rounds": 3},
        {"rounds": 40},
        {"name": "other"},
        {"output": "elsewhere"},
        {"watchdog_seconds": 5},
        {"bind_cores": "never"},
        {"backbone": {"group": "node"}},
        {"compare_with": ["fedavg_lora"]},
        {"checkpoint": {"every_rounds": 7}},
        {"chunk": {"of_type": {"small": 2}}},
        {"evaluate": {"metrics": ["loss", "exact_match"]}},
        {"tensorboard": False},
    ],
)
def test_what_does_not_change_a_round_may_differ(changes: dict[str, object]) -> None:
    check_same_run(saved(), config(**changes))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed was 0 when the run began and is 1 now"),
        ({"chunk": {"clients": 2}}, "chunk.clients was 'auto' when the run began and is 2 now"),
        ({"backbone": {"checkpointing": True}}, "backbone.checkpointing was False"),
        ({"fleet": [{**RUN["fleet"][0], "clients": 3}]}, "fleet.0.clients was 2 when the run began and is 3 now"),
        ({"heterotune": {"adapter_rank": 4}}, "heterotune.adapter_rank was 8"),
        ({"evaluate": {"choice_score": "mean"}}, "evaluate.choice_score was 'sum'"),
    ],
)
def test_what_changes_results_is_refused_by_name(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        check_same_run(saved(), config(**changes))
    assert len(caught.value.problems) == 1


def test_a_key_that_an_earlier_version_did_not_know_had_its_default() -> None:
    checkpoint = saved()
    del checkpoint.facts["config"]["collective"], checkpoint.facts["config"]["local"]["weight_decay"]
    check_same_run(checkpoint, config())
    with pytest.raises(ConfigError, match="collective.topology was 'root' when the run began and is 'sharded' now"):
        check_same_run(checkpoint, config(collective={"topology": "sharded"}))


def test_a_run_that_this_version_does_not_understand_is_compared_as_it_was_saved() -> None:
    checkpoint = saved()
    checkpoint.facts["config"]["gone"] = 3
    with pytest.raises(ConfigError, match="gone was 3 when the run began and is None now"):
        check_same_run(checkpoint, config())


def test_all_differences_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_same_run(saved(), config(seed=2, rounds=2, local={"steps": 3}))
    assert [problem.split()[0] for problem in caught.value.problems] == ["local.steps", "seed", "rounds"]
    assert "rounds = 2 is less than the 3 rounds that are done. Raise it." in caught.value.problems


@pytest.mark.parametrize(
    ("options", "told"), [((), "realign_every = 9 is more than rounds"), (("--resume",), "nowhere")]
)
def test_a_rank_takes_a_run_that_began_as_it_was(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    """It ends at the next check: there is no such model."""
    fleet = [{**RUN["fleet"][0], "model": str(tmp_path / "nowhere")}]
    values = {**RUN, "fleet": fleet, "heterotune": {"realign_every": 9}, "backbone": {"ds_config": "none"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "heterotune.worker", tmp_path / "run.yaml", "--run-dir", tmp_path, *options]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and told in done.stderr and ("rounds" in done.stderr) != bool(options)
