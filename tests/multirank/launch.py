"""Starts a job of several ranks as a user would, with a time limit. pytest itself never runs inside mpirun.

Tests get `run_mpi` and `run_torch` as fixtures (tests/conftest.py).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from heterotune.launching.mpirun import own_session_folder

SOURCE_ROOT = Path(__file__).parents[2] / "engine"
_LAUNCHER_VARIABLES = (
    "OMPI_",
    "PMIX_",
    "PRTE_",
    "SLURM_",
    "TORCHELASTIC_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_",
)
_KILL_AFTER_SECONDS = 5.0


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    returncode: int
    """0 if all ranks ended well."""
    output: str
    """Standard output and error of all ranks."""
    seconds: float


class JobTimeout(AssertionError):
    """A job did not end in time; its processes were killed."""


def run_mpi(
    arguments: Sequence[str | Path],
    *,
    num_ranks: int,
    limit_seconds: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> JobResult:
    """Run `python -m mpi4py ARGUMENTS` on ranks under the mpirun beside this interpreter.

    Args:
        arguments: A script and its arguments, or "-m", a module and its arguments.
        num_ranks: How many ranks.
        limit_seconds: When the job is killed.
        environment: Variables to add.

    Raises:
        JobTimeout: If the job does not end in time; carries its output.
    """
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [mpirun, "-n", str(num_ranks), "--oversubscribe", sys.executable, "-m", "mpi4py", *arguments]
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with own_session_folder(_environment(as_root, environment)) as environ:
        return _run_all([command], [environ], limit_seconds)


def run_torch(
    arguments: Sequence[str | Path],
    *,
    num_ranks: int,
    limit_seconds: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> JobResult:
    """Run `python ARGUMENTS` as plain processes with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; else as `run_mpi`."""
    job = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environments = [
        _environment(job | {"RANK": str(number), "LOCAL_RANK": str(number)}, environment) for number in range(num_ranks)
    ]
    return _run_all([[sys.executable, *arguments]] * num_ranks, environments, limit_seconds)


def run_command(
    command: Sequence[str | Path], *, limit_seconds: float = 60.0, environment: Mapping[str, str] | None = None
) -> JobResult:
    """Run a launcher's command line as it stands; else as `run_mpi`."""
    with own_session_folder(_environment({}, environment)) as environ:
        return _run_all([command], [environ], limit_seconds)


def _environment(launcher: Mapping[str, str], extra: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process's environment without any launcher's variables, with ours."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_VARIABLES)}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE_ROOT), ours.get("PYTHONPATH"))))
    return ours | {"OMP_NUM_THREADS": "1"} | dict(launcher) | dict(extra or {})


def _run_all(
    commands: Sequence[Sequence[str | Path]], environments: Sequence[dict[str, str]], limit_seconds: float
) -> JobResult:
    """Run processes side by side until all have ended; the first bad exit status is the job's."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        processes = [
            subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for command, environment in zip(commands, environments, strict=True)
        ]
        try:
            in_time = [_wait(process, started + limit_seconds) for process in processes]
        finally:
            for process in processes:
                _end(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if not all(in_time):
        raise JobTimeout(f"the job did not end in {limit_seconds:g} seconds; its output:\n{text}")
    returncode = next((process.returncode for process in processes if process.returncode != 0), 0)
    return JobResult(returncode, text, time.monotonic() - started)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Return whether the process ended by the deadline (of time.monotonic)."""
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, politely first: mpirun then ends its ranks. What it leaves behind is killed."""
    if process.poll() is not None:
        return
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    if not _wait(process, time.monotonic() + _KILL_AFTER_SECONDS):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _, left = psutil.wait_procs(started, timeout=_KILL_AFTER_SECONDS)  # the deepspeed launcher leaves its mpirun behind
    for child in left:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
