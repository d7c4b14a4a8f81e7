"""What users copy to a cluster: every file can be read, and the batch scripts are what `heterotune submit` writes.

This file as a script, with --write, writes launch/slurm/ anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.load import load_run
from heterotune.launching.num_ranks import cohort_size

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "launch" / "runs"
SLURM = ROOT / "launch" / "slurm"

PLACES = ["--run-dir", "/scratch/me/runs/NAME", "--python", "/home/me/heterotune/.venv/bin/python"]
SUBMISSIONS = {
    "one_gpu_node": ["--ranks-per-node", "4", "--gpus-per-node", "4", "--cpus-per-rank", "8", "--time", "4:00:00"],
    "eight_nodes": [
        *["--nodes", "8", "--ranks-per-node", "4", "--gpus-per-node", "4", "--cpus-per-rank", "16"],
        *["--time", "12:00:00", "--signal-seconds", "900", "--partition", "gpu", "--account", "project"],
    ],
    "demo_seeds": ["--nodes", "2", "--ranks-per-node", "2", "--array", "1-5%2", "--time", "60", "--via", "deepspeed"],
}
"""File in launch/slurm/ -> the options of `heterotune submit launch/runs/NAME.yaml` that make it."""


def written_by_submit(name: str) -> str:
    run = RUNS / f"{name.removesuffix('_seeds')}.yaml"
    places = [word.replace("NAME", name) for word in PLACES]
    done = CliRunner().invoke(app, ["submit", str(run), *SUBMISSIONS[name], *places, "--dry-run"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_the_scripts_are_what_submit_writes(name: str) -> None:
    path = SLURM / f"{name}.sbatch"
    assert path.is_file(), f"{path} is missing: write it with `python {Path(__file__).name} --write` and read it"
    assert written_by_submit(name) == path.read_text(encoding="utf-8")


def test_no_script_is_left_over() -> None:
    assert {path.stem for path in SLURM.iterdir()} == set(SUBMISSIONS)


SHIPPED_RUNS = sorted(path for path in (ROOT / "launch").rglob("*.yaml") if path.name != "devices.yaml")
SHIPPED_JSON = sorted((ROOT / "ds_configs").rglob("*.json"))


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_every_run_can_be_read_and_names_itself(path: Path) -> None:
    assert path.parent == RUNS and load_run(path).name == path.stem


@pytest.mark.parametrize("path", SHIPPED_JSON, ids=lambda path: path.name)
def test_every_deepspeed_json_can_be_read(path: Path) -> None:
    assert read_ds_config(str(path))["zero_optimization"]["stage"] == 3


def test_the_runs_are_there_for_every_size_of_machine() -> None:
    models = {path.stem: [entry.model for entry in load_run(path).fleet] for path in SHIPPED_RUNS}
    assert models["laptop"] == ["embedded:small", "embedded:large"]
    assert models["one_gpu_node"] == ["meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"]
    assert models["eight_nodes"] == [f"meta-llama/Llama-2-{size}-hf" for size in ("7b", "13b", "70b")]
    eight_nodes = load_run(RUNS / "eight_nodes.yaml")
    assert cohort_size(eight_nodes.fleet, eight_nodes.cohort, eight_nodes.clock) == 56  # as its comment says


def test_the_example_hostfile_reads_as_the_launchers_read_it() -> None:
    lines = [line for line in (ROOT / "launch" / "hostfile.example").read_text().splitlines() if line[:1] != "#"]
    assert [line.split() for line in lines] == [["node01", "slots=4"], ["node02", "slots=4"]]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {Path(__file__).name} --write")
    for name in SUBMISSIONS:
        (SLURM / f"{name}.sbatch").write_text(written_by_submit(name), encoding="utf-8")
