"""Who is gone, stopped or left behind, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from heterotune.launching import rank_processes
from heterotune.launching.rank_processes import end_session, killed_rank, session_members, signal_text, watch_parent

LIMIT_SECONDS = 30.0
WAITS = "import sys; print('here', flush=True); sys.stdin.read()"


def start(program: str = WAITS, **environ: str) -> subprocess.Popen:
    """Start a Python that waits until its input ends, as a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environ},
    )
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    return process


@pytest.fixture
def started():
    processes: list[subprocess.Popen] = []
    yield lambda *arguments, **environ: processes.append(start(*arguments, **environ)) or processes[-1]
    for process in processes:
        process.kill()
        process.communicate()


def test_mpirun_names_the_rank_that_a_signal_ended() -> None:
    said = "prterun noticed that process rank 1 with PID 28053 on node vm exited on\nsignal 9 (Killed).\n"
    mpi_rank, text = killed_rank(f"something before\n{said}")
    assert mpi_rank == 1
    assert text.startswith("MPI rank 1 was killed by signal 9 (SIGKILL). If nobody sent it, the system may have run")
    assert text.endswith("It was process 28053 on vm.")
    assert killed_rank("MPI_ABORT was invoked on rank 0") is None
    assert signal_text(signal.SIGSEGV) == "was killed by signal 11 (SIGSEGV)."


def test_a_stopped_rank_is_named(started, monkeypatch) -> None:
    rank, other = started(OMPI_COMM_WORLD_RANK="3"), started()
    monkeypatch.setattr(rank_processes.os, "getppid", os.getpid)
    assert rank_processes.stopped_ranks() == []
    for process in (rank, other):
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
    told = f"MPI rank 3 (process {rank.pid}) is stopped, by SIGSTOP or a debugger."
    assert rank_processes.stopped_ranks() == [told]


def test_the_end_of_the_parent_is_noticed(monkeypatch) -> None:
    told: list[str] = []
    over, parents = threading.Event(), iter([4711, 4711])
    monkeypatch.setattr(rank_processes, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(rank_processes.os, "getppid", lambda: next(parents, 1))
    watch_parent(lambda text: (told.append(text), over.set()))
    assert over.wait(LIMIT_SECONDS)
    assert told == ["The launcher of the ranks, process 4711, was killed. Go on with --resume."]


def test_what_a_dead_leader_left_is_ended_even_if_it_is_stopped(started) -> None:
    program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], stdin=sys.stdin, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print('here', flush=True); child.wait()"
    )
    leader = started(program)
    (child,) = psutil.Process(leader.pid).children()
    child.suspend()
    leader.kill()
    leader.wait()
    assert session_members(leader.pid) == [child]
    end_session(leader.pid, 0.1)
    psutil.wait_procs([child], timeout=LIMIT_SECONDS)
    assert session_members(leader.pid) == []
