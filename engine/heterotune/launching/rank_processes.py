"""What ranks and their launcher see of one another's processes on a host: who is gone, who is stopped, who is left."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.3
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
# prterun noticed that process rank 1 with PID 28053 on node vm exited on
# signal 9 (Killed).
_KILLED = re.compile(r"process rank (\d+) with PID (\d+) on node (\S+) exited on\s+signal (\d+)")


def watch_parent(on_gone: Callable[[str], object]) -> None:
    """Notice when the process that started this one ends; mpirun, when it is killed, tells nobody.

    Args:
        on_gone: Called once, from another thread, with a line that says what happened.
    """
    parent = os.getppid()
    threading.Thread(target=_wait_for_orphanhood, args=(parent, on_gone), daemon=True).start()


def _wait_for_orphanhood(parent: int, on_gone: Callable[[str], object]) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    on_gone(f"The launcher of the ranks, process {parent}, was killed. Go on with --resume.")


def stopped_ranks() -> list[str]:
    """Return a line for every rank that the launcher of this one started on this host and that is stopped."""
    return list(_stopped_among(os.getppid()))


def _stopped_among(launcher: int) -> Iterator[str]:
    with suppress(psutil.Error):
        for process in psutil.Process(launcher).children():
            with suppress(psutil.Error):
                mpi_rank = next((process.environ().get(name) for name in _RANK_VARIABLES), None)
                if mpi_rank is not None and process.status() in _STOPPED:
                    yield f"MPI rank {mpi_rank} (process {process.pid}) is stopped, by SIGSTOP or a debugger."


def signal_text(number: int) -> str:
    """Say which signal ended a process, and what often sends it."""
    hint = " If nobody sent it, the system may have run out of memory." if number == signal.SIGKILL else ""
    return f"was killed by signal {number} ({signal.Signals(number).name}).{hint}"


def killed_rank(launcher_output: str) -> tuple[int, str] | None:
    """Find in the output of Open MPI's launcher which rank a signal ended first.

    Returns:
        Its number, and a line that says so; None if the launcher names none.
    """
    if (found := _KILLED.search(launcher_output)) is None:
        return None
    mpi_rank, pid, host, number = found.groups()
    return int(mpi_rank), f"MPI rank {mpi_rank} {signal_text(int(number))} It was process {pid} on {host}."


def end_session(leader: int, grace_seconds: float) -> None:
    """End every process of a session whose leader is gone: ranks whose mpirun was killed, stopped ones as well.

    Args:
        leader: Process id of the leader, which was started with `start_new_session`.
        grace_seconds: How long they may take to leave by themselves.
    """
    left = session_members(leader)
    _, left = psutil.wait_procs(left, timeout=grace_seconds if left else 0)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=grace_seconds)


def session_members(leader: int) -> list[psutil.Process]:
    """Return the processes of a session; zombies, which nobody can end, are left out."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members
