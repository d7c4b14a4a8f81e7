"""Every rule of a batch request, with the words that a user reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.launching.batch_request import (
    BatchRequest,
    array_seeds,
    request_problems,
    run_dir_problems,
    time_limit_seconds,
)

SOUND = BatchRequest(nodes=2, ranks_per_node=2, time="1:00:00", partition="main", array="1-3", via="srun")


@pytest.fixture
def config() -> RunConfig:
    fleet = [{"name": "small", "model": "embedded:small", "clients": 4}]
    return parse_run({"name": "t", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("12:00:00", 43200),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:30:05", 217805),
        ("0", 0),
        ("", None),
        ("1h", None),
        ("1:2:3:4", None),
        ("12:0:0", None),
        ("-5", None),
        ("12:00:00\n", None),
        ("١٢", None),
    ],
)
def test_time_limits_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    assert time_limit_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("5", (5,)), ("1-3", (1, 2, 3)), ("1,2,7", (1, 2, 7)), ("0,4-5%1", (0, 4, 5)), ("7,1", (7, 1))],
)
def test_seeds_of_an_array(text: str, seeds: tuple[int, ...]) -> None:
    assert array_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "is not a list of seeds"),
        ("a", "is not a list of seeds"),
        ("1-", "is not a list of seeds"),
        ("1:3", "is not a list of seeds"),
        ("1-3%0", "is not a list of seeds"),
        ("1-3%", "does not say how many at a time"),
        ("3-1", "has a range that runs backwards"),
        ("1-3,2", "repeats a seed"),
        ("0-1000", "is more than 1000 seeds"),
        ("0-999,1000", "is more than 1000 seeds"),
    ],
)
def test_what_is_no_array(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        array_seeds(text)


def test_a_sound_request_has_no_problem(config: RunConfig) -> None:
    assert request_problems(SOUND, config, ("rounds=3",)) == []
    assert request_problems(BatchRequest(nodes=1), config) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "--nodes = 0 is less than 1. Give at least 1."),
        ({"ranks_per_node": 0}, "--ranks-per-node = 0 is less than 1. Give at least 1."),
        ({"cpus_per_rank": 0}, "--cpus-per-rank = 0 is less than 1. Give at least 1."),
        ({"gpus_per_node": -1}, "--gpus-per-node = -1 is less than 0. Give at least 0."),
        ({"nodes": 3}, "--nodes x --ranks-per-node = 3 x 2 is more than the 4 clients of a round's cohort"),
        ({"time": "1h"}, "--time = 1h is not a time limit. Write minutes (90), hours (12:00:00) or days (1-12:00:00)."),
        ({"time": "0"}, "--time = 0 is not a time limit."),
        ({"signal_seconds": 0}, "--signal-seconds = 0 is not from 1 to 65535. Give the seconds"),
        ({"signal_seconds": 70000}, "--signal-seconds = 70000 is not from 1 to 65535."),
        ({"signal_seconds": 3600}, "--signal-seconds = 3600 is not less than --time = 1:00:00 (3600 s). Lower it"),
        ({"array": "x"}, "--array = x is not a list of seeds. Write it like 1-5 or 1,2,7."),
        ({"partition": "a b"}, "--partition = 'a b' is not a name of Slurm's. Use letters, digits"),
        ({"account": "x\n#SBATCH --uid=0"}, r"--account = 'x\n#SBATCH --uid=0' is not a name of Slurm's."),
        ({"options": ("--qos=a b",)}, "--sbatch-option = '--qos=a b' is not of the form name=value. Write it like"),
        ({"via": "ssh"}, "--via = ssh is not a way to start ranks. Use auto, mpirun, srun, deepspeed."),
        ({"container": "none.sif"}, "--container = none.sif does not exist. Give an image file or docker://NAME."),
        (
            {"container": "docker://x", "via": "deepspeed"},
            "--container = docker://x does not go with --via deepspeed, whose launcher starts its own Python. Use",
        ),
    ],
)
def test_one_wrong_option_gives_one_problem(config: RunConfig, change: dict, message: str) -> None:
    (problem,) = request_problems(replace(SOUND, **change), config)
    assert problem.startswith(message)


def test_everything_wrong_is_told_at_once(config: RunConfig) -> None:
    wrong = BatchRequest(nodes=0, ranks_per_node=0, time="x", array="x", via="x", partition=" ", signal_seconds=0)
    problems = request_problems(wrong, config, ("seed = 3",))
    assert len(problems) == 8
    assert "--set seed contradicts --array = x, which gives the seeds. Drop one of them." in problems


def test_without_a_readable_run_the_rest_is_still_checked() -> None:
    (problem,) = request_problems(replace(SOUND, nodes=100, via="x"), None)
    assert "--via" in problem


@pytest.mark.parametrize("name", ["with space", "per%cent", 'quo"te', "dollar$"])
def test_a_run_folder_that_a_script_cannot_carry(tmp_path: Path, name: str) -> None:
    (problem,) = run_dir_problems(tmp_path / name, to_be_made=True)
    assert re.search("has characters that an #SBATCH line cannot carry. Use letters", problem)


def test_a_run_folder_must_be_new_or_empty(tmp_path: Path) -> None:
    assert run_dir_problems(tmp_path, to_be_made=True) == []
    assert run_dir_problems(tmp_path / "new", to_be_made=True) == []
    (tmp_path / "config.yaml").touch()
    (problem,) = run_dir_problems(tmp_path, to_be_made=True)
    assert "is not a new or empty folder. Name another one; to go on with a run there, `sbatch" in problem
    assert run_dir_problems(tmp_path, to_be_made=False) == []
    (problem,) = run_dir_problems(tmp_path / "config.yaml", to_be_made=True)
    assert "is not a new or empty folder" in problem
