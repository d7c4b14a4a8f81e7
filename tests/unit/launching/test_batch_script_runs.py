"""The batch script, run by bash: how it ends, what it does when Slurm signals it, what it leaves in the run folder.

mpirun and scontrol are small scripts here; the decision to requeue and the last words are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from heterotune.launching.mpirun import SESSION_VARIABLE
from heterotune.launching.slurm_script import BatchScript, render

SOURCE_ROOT = Path(__file__).parents[3] / "engine"
LIMIT_SECONDS = 60.0
STATE = "JobId=7 JobState={state} Reason={reason} ExitCode=0:0"

SAVES = """\
while [ ! -e "$RUN/stop" ]; do sleep 0.05; done
rm "$RUN/stop"
mkdir -p "$RUN/checkpoints/round-000003" && touch "$RUN/checkpoints/round-000003/manifest.json"
exit 75"""
"""Ranks that stop as the worker does."""

IS_DEAF = 'trap "" TERM USR1; touch "$RUN/started"; exec sleep 600 >/dev/null 2>&1'


@dataclass(frozen=True)
class Batch:
    """A run folder with a batch script and the commands that it finds."""

    run: Path
    tools: Path

    def start(self) -> subprocess.Popen:
        """Run the script as Slurm would."""
        environ = dict(os.environ, RUN=str(self.run), SLURM_JOB_ID="7", PYTHONPATH=str(SOURCE_ROOT))
        environ["PATH"] = os.pathsep.join([str(self.tools), environ["PATH"]])
        bash = shutil.which("bash")
        assert bash is not None
        return subprocess.Popen(
            [bash, self.run / "job.sbatch"], env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self, job: subprocess.Popen) -> tuple[int, str]:
        """Wait for the script; returns its exit code and what it said."""
        try:
            _, said = job.communicate(timeout=LIMIT_SECONDS)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        return job.returncode, said

    def scontrol(self) -> list[str]:
        """What scontrol was told to do, without questions."""
        path = self.run / "scontrol"
        return path.read_text().splitlines() if path.is_file() else []

    def exit_code(self) -> str | None:
        path = self.run / "exit-code"
        return path.read_text().strip() if path.is_file() else None


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., Batch]:
    def make(ranks: str, *, state: str = "RUNNING", reason: str = "None", kill_wait: int = 30) -> Batch:
        run, tools = tmp_path / "run", tmp_path / "tools"
        (run / "logs").mkdir(parents=True)
        tools.mkdir()
        scripts = {
            "python": f'exec {sys.executable} "$@"',
            "mpirun": ranks,
            "scontrol": 'case "$*" in\n'
            f"    'show config') echo 'KillWait                = {kill_wait} sec' ;;\n"
            f"    *'show job'*) echo '{STATE.format(state=state, reason=reason)}' ;;\n"
            '    *) echo "$*" >>"$RUN/scontrol" ;;\nesac',
        }
        for name, body in scripts.items():
            (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (tools / name).chmod(0o755)
        python = tools / "python"
        script = BatchScript(name="t", run_dir=str(run), python=str(python), num_nodes=2, ranks_per_node=2)
        (run / "job.sbatch").write_text(render(script))
        return Batch(run, tools)

    return make


def wait_for(path: Path) -> None:
    deadline, never = time.monotonic() + LIMIT_SECONDS, threading.Event()
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        never.wait(0.02)


def test_a_job_that_ends_well(batch) -> None:
    job = batch('printf "%s\\n" "$@" >"$RUN/arguments"; touch "$RUN/summary.json"')
    for left_over in ("stop", "failure.json"):
        (job.run / left_over).touch()
    assert job.finish(job.start()) == (0, "")
    assert job.exit_code() == "0" and job.scontrol() == []
    assert not (job.run / "stop").exists() and not (job.run / "failure.json").exists()
    arguments = (job.run / "arguments").read_text().splitlines()
    assert arguments[:6] == ["-n", "4", "--map-by", "ppr:2:node", "--bind-to", "none"]
    assert arguments[arguments.index("PATH") - 1] == "-x" and "--hostfile" not in arguments
    worker = ["-m", "mpi4py", "-m", "heterotune.worker", f"{job.run}/config.yaml", "--run-dir", str(job.run)]
    assert arguments[-9:] == [str(job.tools / "python"), *worker, "--resume"]


def test_mpirun_has_a_session_folder_of_its_own_while_the_job_runs(batch) -> None:
    job = batch(
        f'test -d "${SESSION_VARIABLE}" && echo "${SESSION_VARIABLE}" >"$RUN/session"; touch "$RUN/summary.json"'
    )
    assert job.finish(job.start()) == (0, "")
    assert not Path((job.run / "session").read_text().strip()).exists()


def test_the_failing_rank_has_the_last_word(batch) -> None:
    failure = json.dumps({"mpi_rank": 1, "text": "ValueError: loss is nan"})
    job = batch(f"echo 'noise of mpirun' >&2; echo '{failure}' >\"$RUN/failure.json\"; exit 3")
    code, said = job.finish(job.start())
    assert code == 3 and job.exit_code() == "3" and job.scontrol() == []
    assert said.endswith("MPI rank 1 failed:\nValueError: loss is nan\n")


def test_a_launcher_that_hides_a_failure(batch) -> None:
    job = batch("exit 0")
    code, said = job.finish(job.start())
    assert code == 1 and job.exit_code() == "1"
    assert "The ranks ended without a traceback" in said


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_the_ranks_and_puts_the_job_back(batch, number: int) -> None:
    job = batch(f'touch "$RUN/started"\n{SAVES}')
    started = job.start()
    wait_for(job.run / "started")
    os.kill(started.pid, number)
    code, said = job.finish(started)
    assert code == 75 and "Saved: round 3. Requeued." in said
    assert job.scontrol() == ["requeue 7"]
    assert job.exit_code() is None
    assert json.loads((job.run / "requeues.json").read_text())["saved"] == {".": 3}


def test_a_cancelled_job_does_not_come_back(batch) -> None:
    job = batch(f'touch "$RUN/started"\n{SAVES}', state="COMPLETING")
    started = job.start()
    wait_for(job.run / "started")
    os.kill(started.pid, signal.SIGTERM)
    code, said = job.finish(started)
    assert code == 75 and "left alone" in said
    assert job.scontrol() == [] and job.exit_code() == "75"


def test_a_job_whose_ranks_do_not_stop_in_time_comes_back_once(batch) -> None:
    job = batch(IS_DEAF, state="COMPLETING", reason="TimeLimit", kill_wait=1)
    for expected in (["requeue 7"], ["requeue 7"]):
        started = job.start()
        wait_for(job.run / "started")
        (job.run / "started").unlink()
        os.kill(started.pid, signal.SIGTERM)
        code, said = job.finish(started)
        os.killpg(started.pid, signal.SIGKILL)  # the deaf ranks, as Slurm would after KillWait
        assert code != 0 and job.scontrol() == expected
    assert "not requeued" in said and job.exit_code() is not None


def test_ranks_that_die_of_the_same_sigterm_count_as_interrupted(batch) -> None:
    job = batch('touch "$RUN/started"; while [ ! -e "$RUN/stop" ]; do sleep 0.05; done; exit 143')
    started = job.start()
    wait_for(job.run / "started")
    os.kill(started.pid, signal.SIGTERM)
    code, said = job.finish(started)
    assert code == 143 and "Nothing new saved (no round). Requeued once more." in said
    assert job.scontrol() == ["requeue 7"]


def test_under_pbs_the_hosts_come_from_its_file(batch, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "nodes").write_text("n1\nn1\nn2\nn2\n")
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    job = batch('printf "%s\\n" "$@" >"$RUN/arguments"; touch "$RUN/summary.json"')
    assert job.finish(job.start()) == (0, "")
    arguments = (job.run / "arguments").read_text().splitlines()
    assert arguments[arguments.index("--hostfile") + 1] == f"{job.run}/hostfile"
    assert (job.run / "hostfile").read_text() == "n1 slots=2\nn2 slots=2\n"
