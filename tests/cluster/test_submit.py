"""`heterotune submit` on two real nodes: what it returns, what it leaves, and which jobs come back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from heterotune.config.load import load_run

LIMIT_SECONDS = 150.0


@pytest.fixture
def submit(slurm, run_command, job_variables):
    """Run `heterotune submit` in the cluster's environment; returns exit code and output."""

    def run(run_file: Path, *options: object):
        command = ["heterotune", "submit", run_file, "--nodes", 2, *options]
        return run_command(
            [str(word) for word in command], limit_seconds=LIMIT_SECONDS, environment=slurm.variables(job_variables)
        )

    return run


def job_number(output: str) -> int:
    (line,) = [line for line in output.splitlines() if line.startswith("job  ")]
    return int(line.split()[1])


def what_it_printed(out: Path) -> str:
    return "".join(log.read_text() for log in sorted((out / "logs").glob("slurm-*")))


def fake_python(folder: Path, worker: str) -> Path:
    """An interpreter whose heterotune.worker is a few lines of shell, with the run folder as $RUN."""
    path = folder / "bin" / "python"
    path.parent.mkdir()
    only_worker = f'case "$*" in *heterotune.worker*) {worker} ;; esac'
    path.write_text(f'#!/bin/bash\nRUN={folder}/out\n{only_worker}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("via", ["mpirun", "deepspeed"])
def test_a_job_that_is_waited_for_gives_the_digest_of_one_process(
    submit, small_run, digest_of_run, tmp_path, via
) -> None:
    out = tmp_path / "out"
    done = submit(small_run.path, "--ranks-per-node", 2, "--via", via, "--run-dir", out, "--time", 5, "--wait")
    assert done.returncode == 0, done.output + what_it_printed(out)
    assert digest_of_run(out) == small_run.digest and small_run.digest in done.output
    environment = json.loads((out / "summary.json").read_text())["environment"]
    assert (environment["channel"], environment["num_ranks"]) == ("mpi", 4)
    assert (out / "exit-code").read_text() == "0\n"


def test_every_seed_of_an_array_has_its_own_run(submit, small_run, digest_of_run, tmp_path) -> None:
    out = tmp_path / "out"
    seed = load_run(small_run.path).seed
    done = submit(small_run.path, "--array", f"{seed},{seed + 1}", "--run-dir", out, "--wait")
    assert done.returncode == 0, done.output
    assert digest_of_run(out / f"seed-{seed}") == small_run.digest
    assert digest_of_run(out / f"seed-{seed + 1}") != small_run.digest


def test_a_job_that_fails_returns_its_exit_code_and_the_cause_last(submit, small_run, tmp_path) -> None:
    failure = json.dumps({"mpi_rank": 1, "text": "ValueError: loss is nan"})
    python = fake_python(tmp_path, f"echo '{failure}' >\"$RUN/failure.json\"; exit 3")
    out = tmp_path / "out"
    done = submit(small_run.path, "--run-dir", out, "--python", python, "--via", "mpirun", "--wait")
    assert done.returncode == 3, done.output + what_it_printed(out)
    assert done.output.rstrip().endswith("MPI rank 1 failed:\nValueError: loss is nan")
    assert what_it_printed(out).rstrip().endswith("MPI rank 1 failed:\nValueError: loss is nan")


def test_a_job_that_saves_nothing_comes_back_once(slurm, submit, small_run, wait_until, tmp_path) -> None:
    python = fake_python(tmp_path, 'trap "" TERM USR1; touch "$RUN/started"; exec sleep 600')
    out = tmp_path / "out"
    done = submit(small_run.path, "--run-dir", out, "--python", python, "--via", "mpirun")
    assert done.returncode == 0, done.output
    job = job_number(done.output)
    for _ in range(2):
        wait_until((out / "started").exists, LIMIT_SECONDS, "the ranks")
        (out / "started").unlink()
        slurm.ask("scancel", "--batch", "--signal=TERM", str(job))
        wait_until(lambda: slurm.job(job)["JobState"] != "RUNNING", LIMIT_SECONDS, "the end of an attempt")
    ended = slurm.wait(job, limit_seconds=LIMIT_SECONDS)
    printed = what_it_printed(out)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "1"), printed
    assert "Nothing new saved (no round). Requeued once more." in printed
    assert "Interrupted 2 times in a row with nothing new saved (no round): not requeued." in printed


def test_a_cancelled_job_does_not_come_back(slurm, submit, small_run, wait_until, tmp_path) -> None:
    out = tmp_path / "out"
    done = submit(small_run.path, "--run-dir", out, "--set", "rounds=1000", "--set", "evaluate.every_rounds=1000")
    job = job_number(done.output)
    wait_until(lambda: any(out.glob("checkpoints/round-*")), LIMIT_SECONDS, "a checkpoint")
    slurm.ask("scancel", str(job))
    ended = slurm.wait(job, limit_seconds=LIMIT_SECONDS)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    wait_until(lambda: "left alone" in what_it_printed(out), LIMIT_SECONDS, "the script's last words")
