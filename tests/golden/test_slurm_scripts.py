"""Batch scripts, letter for letter. A missing file fails; this file as a script, with --write, writes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from heterotune.launching.slurm_script import BatchScript, render

FOLDER = Path(__file__).parent / "slurm"

SCRIPTS = {
    "mpirun": BatchScript(
        name="tiny", run_dir="/scratch/ann/runs/tiny", python="/home/ann/venv/bin/python", num_nodes=2, ranks_per_node=2
    ),
    "srun": BatchScript(
        name="tiny",
        run_dir="/scratch/ann/runs/tiny",
        python="/home/ann/venv/bin/python",
        num_nodes=2,
        ranks_per_node=4,
        via="srun",
        time="12:00:00",
        partition="gpu",
        account="llm",
        gpus_per_node=4,
        cpus_per_rank=8,
        container="/images/heterotune.sif",
        signal_seconds=600,
        work_dir="/home/ann/my runs",
        options=("qos=high", "exclusive"),
    ),
    "deepspeed-array": BatchScript(
        name="sweep",
        run_dir="/scratch/ann/runs/sweep",
        python="/home/ann/venv/bin/python",
        num_nodes=4,
        ranks_per_node=8,
        via="deepspeed",
        array="1-5%2",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_text_is_the_one_in_the_file(name: str) -> None:
    path = FOLDER / f"{name}.sbatch"
    assert path.is_file(), f"{path} is missing: write it with `python {Path(__file__).name} --write` and read it"
    assert render(SCRIPTS[name]) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_it(name: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n"], input=render(SCRIPTS[name]), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.sbatch")} == set(SCRIPTS)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {Path(__file__).name} --write")
    for name, script in SCRIPTS.items():
        (FOLDER / f"{name}.sbatch").write_text(render(script), encoding="utf-8")
