"""Jobs that Slurm interrupts: they save, go back into the queue, resume, and end with the same adapters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

ROUNDS = 24
INTERRUPT_AFTER = 3
LIMIT_SECONDS = 120.0


@pytest.fixture(scope="module")
def long_run(small_run, run_command, job_variables, digest_of_run, tmp_path_factory) -> tuple[Path, str]:
    """The small federation with more rounds, and its digest without an interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = yaml.safe_load(small_run.path.read_text())
    run |= {
        "rounds": ROUNDS,
        "checkpoint": {"every_rounds": 1, "keep": 2},
        "evaluate": {"every_rounds": ROUNDS, "max_rows": 8},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    out = folder / "out"
    out.mkdir()
    command = [sys.executable, "-m", "heterotune.worker", path, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode == 0, result.output
    return path, digest_of_run(out)


@pytest.fixture
def submit(slurm, job_variables, tmp_path):
    """Run `heterotune submit` for two nodes in the cluster's environment; returns the finished command."""

    def run(run_file: Path, *options: str):
        command = ["heterotune", "submit", run_file, "--nodes", "2", "--ranks-per-node", "1", "--via", "mpirun"]
        return slurm.run(*command, "--set", f"output={tmp_path / 'runs'}", *options, environment=job_variables)

    return run


INTERRUPTIONS = {
    "scancel --signal": ["scancel", "--signal=USR1", "--batch"],
    "scontrol requeue": ["scontrol", "requeue"],
}


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interrupted_job_requeues_itself_and_ends_the_same(
    slurm, submit, long_run, digest_of_run, wait_until, tmp_path, interruption
) -> None:
    run_file, expected = long_run
    done = submit(run_file)
    assert done.returncode == 0, done.stderr
    job_id = int(slurm.ask("squeue", "--noheader", "--format=%A"))
    (out,) = (tmp_path / "runs").iterdir()
    wait_until(lambda: rounds_saved(out) >= INTERRUPT_AFTER, LIMIT_SECONDS, f"round {INTERRUPT_AFTER}")
    before = round_seconds(out)
    assert rounds_saved(out) < ROUNDS
    slurm.ask(*INTERRUPTIONS[interruption], str(job_id))
    job = slurm.wait(job_id, limit_seconds=LIMIT_SECONDS)
    output = "".join(log.read_text() for log in sorted((out / "logs").glob("slurm-*")))
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), output
    assert digest_of_run(out) == expected
    after = round_seconds(out)
    assert [number for number, _ in after] == list(range(1, ROUNDS + 1))
    assert after[:INTERRUPT_AFTER] == before[:INTERRUPT_AFTER], "it began anew instead of going on"


def round_seconds(out: Path) -> list[tuple[int, float]]:
    """Every round that was written down and its seconds, which no second try would repeat to the last digit."""
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(entry["round"], entry["value"]) for entry in entries if entry["name"] == "seconds/round"]


def rounds_saved(out: Path) -> int:
    """The newest complete checkpoint's round."""
    done = [int(path.parent.name.removeprefix("round-")) for path in out.glob("checkpoints/round-*/manifest.json")]
    return max(done, default=0)


def test_an_unknown_partition_is_refused_with_its_name(submit, small_run) -> None:
    done = submit(small_run.path, "--partition", "no-such-partition")
    assert done.returncode == 2
    assert "no-such-partition" in done.stderr and "Traceback" not in done.stderr
