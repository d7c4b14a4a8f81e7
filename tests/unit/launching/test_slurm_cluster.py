"""What Slurm's commands print, read; here they are small scripts that print it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from heterotune.errors import LaunchError
from heterotune.launching import slurm_cluster
from heterotune.launching.slurm_cluster import JobState, Partition, known_partitions, read_job_states, submit_script

RUNNING = "JobId=7 JobName=t UserId=a(1) JobState=RUNNING Reason=None Dependency=(null) ExitCode=0:0 RunTime=0"


@pytest.fixture
def command(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """Put a command on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return put


def test_partitions(command) -> None:
    assert known_partitions() is None
    command("sinfo", "echo 'main* 2 64'; echo 'gpu 8 32'; echo 'main* 3 128'")
    assert known_partitions() == [Partition("gpu", 8, 32, False), Partition("main", 5, 128, True)]


def test_a_slurm_that_does_not_answer(command, monkeypatch) -> None:
    command("sinfo", "echo 'sinfo: warning' >&2; echo 'slurm_load_partitions: Unable to contact.' >&2; exit 1")
    with pytest.raises(LaunchError, match=r"sinfo: slurm_load_partitions: Unable to contact\. Is this cluster's Slurm"):
        known_partitions()
    monkeypatch.setattr(slurm_cluster, "_LIMIT_SECONDS", 0.2)
    command("sinfo", "exec /bin/sleep 60")
    with pytest.raises(LaunchError, match=r"sinfo did not answer in 0 s\. Is this cluster's Slurm up"):
        known_partitions()


def test_a_submitted_job_and_the_environment_it_gets(command, tmp_path: Path) -> None:
    command("sbatch", f'echo "$@ $MARK" >{tmp_path}/seen; echo "42;cluster"')
    assert submit_script(Path("/x/job.sbatch"), {"MARK": "here", "PATH": str(tmp_path)}) == "42"
    assert (tmp_path / "seen").read_text() == "--parsable /x/job.sbatch here\n"


def test_a_refused_job(command, tmp_path: Path) -> None:
    command("sbatch", "echo 'sbatch: error: first' >&2; echo 'sbatch: error: Invalid account' >&2; exit 1")
    with pytest.raises(LaunchError, match=r"sbatch refused the job: sbatch: error: Invalid account\. Change the opt"):
        submit_script(Path("job.sbatch"), {"PATH": str(tmp_path)})
    command("sbatch", "exit 3")
    with pytest.raises(LaunchError, match="sbatch refused the job: exit code 3"):
        submit_script(Path("job.sbatch"), {"PATH": str(tmp_path)})


def test_job_states(command) -> None:
    command("scontrol", f"echo '{RUNNING}'; echo '{RUNNING.replace('RUNNING', 'PENDING')}'")
    assert read_job_states("7") == [JobState("RUNNING", "None"), JobState("PENDING", "None")]
    command("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert read_job_states("7") == []


def test_a_slurm_that_does_not_say_how_a_job_is(command) -> None:
    with pytest.raises(LaunchError, match=r"scontrol is not on PATH\. Put Slurm's commands there"):
        read_job_states("7")
    command("scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(LaunchError, match=r"scontrol: slurm_load_jobs error: Unable to contact slurm controller\. Is"):
        read_job_states("7")


@pytest.mark.parametrize(
    ("state", "exit_code", "code"),
    [
        ("COMPLETED", "0:0", 0),
        ("FAILED", "75:0", 75),
        ("TIMEOUT", "0:0", 1),
        ("CANCELLED", "0:15", 143),
        ("RUNNING", "0:0", 0),
    ],
)
def test_exit_codes(command, state: str, exit_code: str, code: int) -> None:
    line = RUNNING.replace("RUNNING", state).replace("ExitCode=0:0", f"ExitCode={exit_code}")
    command("scontrol", f"echo '{line}'")
    (found,) = read_job_states("7")
    assert found.exit_code == code
    assert found.has_ended == (state != "RUNNING")


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING"])
def test_a_job_that_may_still_run_has_not_ended(state: str) -> None:
    assert not JobState(state).has_ended
