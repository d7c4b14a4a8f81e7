"""Runs all ranks on this machine, watches them, and ends them with it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from heterotune.errors import LaunchError
from heterotune.launching.environment import LOCAL_LAUNCH_VARIABLE
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix, own_session_folder, worker_command
from heterotune.launching.rank_processes import end_session, killed_rank, signal_text
from heterotune.launching.worker_environment import gpu_is_usable, usable_cores, worker_variables
from heterotune.run_folder import FAILURE_FILE, RunFolder

StatusWatcher = Callable[[dict[str, Any]], None]

_POLL_SECONDS = 0.2
_END_SECONDS = 10.0
_ORPHAN_SECONDS = 3.0
_FULL_DISK_BYTES = 1 << 16
_TAIL_LINES = 40
_LAUNCHER_VARIABLES = ("OMPI_", "PMIX_", "PMI_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SETTINGS = ("OMPI_MCA_", "PMIX_MCA_", "OMPI_ALLOW_")  # a user's settings of Open MPI, not traces of a job


def run_local(
    run_folder: RunFolder,
    num_ranks: int,
    *,
    threads_per_rank: int | str = "auto",
    resume: bool = False,
    overrides: Sequence[str] = (),
    on_status: StatusWatcher = lambda status: None,
) -> int:
    """Run a run folder's config on ranks of this machine and wait for them.

    One rank runs without mpirun. Ctrl-C, SIGTERM and SIGHUP end the ranks before they end this process.

    Args:
        run_folder: Made by `RunFolder.create`; config.yaml in it is what the ranks run.
        num_ranks: At least 1.
        threads_per_rank: As in the run file.
        resume: Go on from the newest checkpoint in the run folder.
        overrides: `key=value`, instead of what config.yaml says.
        on_status: Called with the run's status a few times a second.

    Returns:
        The exit code of the job; 0 = every rank ended well.

    Raises:
        LaunchError: If there is no mpirun.
    """
    prefix: list[str] = []
    if num_ranks > 1:
        prefix = mpirun_prefix(find_mpirun(), num_ranks, num_cores=usable_cores(), as_root=os.geteuid() == 0)
    command = worker_command(prefix, run_folder.config_path, run_folder.path, resume=resume, overrides=overrides)
    environ = job_environment(os.environ, num_ranks)
    environ |= worker_variables(environ, threads_per_rank=threads_per_rank, has_gpu=gpu_is_usable())
    with own_session_folder(environ) if prefix else nullcontext(environ) as job_environ:
        return run_command(command, job_environ, run_folder, on_status)


def open_to_resume(run_dir: Path) -> RunFolder:
    """Open the folder of an earlier run.

    Raises:
        LaunchError: If it is not the folder of a run.
    """
    folder = RunFolder.open(run_dir)
    if not folder.config_path.is_file():
        raise LaunchError(f"{folder.path} has no {folder.config_path.name}: it is no run folder. Name one that is.")
    return folder


def job_environment(environ: Mapping[str, str], num_ranks: int) -> dict[str, str]:
    """Return the environment of a new job: without the traces of a launcher that started this process."""
    kept = {name: value for name, value in environ.items() if not _is_launcher_variable(name)}
    return kept | {LOCAL_LAUNCH_VARIABLE: str(num_ranks)}


def run_command(
    command: Sequence[str], environ: Mapping[str, str], run_folder: RunFolder, on_status: StatusWatcher
) -> int:
    """Run a job, its output into the launcher's log, and show its status meanwhile.

    Returns:
        Its exit code; 128 + the signal's number if a signal ended it.
    """
    with open(run_folder.launcher_log, "ab") as log, _signals_raise():
        job = subprocess.Popen(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = _watch(job, run_folder, on_status)
            if code != 0:
                _record_signals(run_folder, Path(command[0]).name, code)
        finally:
            end_job(job)
    return 128 - code if code < 0 else code


def end_job(job: subprocess.Popen) -> None:
    """End a job that may still run: mpirun passes SIGTERM on to its ranks; what is left after 10 seconds is killed."""
    if job.poll() is not None:
        end_session(job.pid, _ORPHAN_SECONDS)  # an mpirun that was killed leaves its ranks behind
        return
    processes = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    job.terminate()
    try:
        job.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    for process in processes:  # an mpirun that had to be killed leaves its ranks behind
        with suppress(psutil.NoSuchProcess):
            process.kill()
    job.wait()


def failure_text(run_folder: RunFolder) -> str:
    """Return why a job failed: the traceback of the first rank that did, else the end of the launcher's log."""
    if text := run_folder.first_failure_text():
        return text
    log, disk = run_folder.launcher_log, os.statvfs(run_folder.path)
    if disk.f_bavail * disk.f_frsize < _FULL_DISK_BYTES:  # then nobody could write why
        return f"{run_folder.path}: No space left on device. Free space there, then go on with --resume."
    return f"The ranks ended without a traceback. The end of {log}:\n{_tail(log)}"


def _record_signals(run_folder: RunFolder, launcher: str, code: int) -> None:
    """Keep which rank, or what started them, a signal ended: the dead cannot write it."""
    killed = killed_rank(_tail(run_folder.launcher_log))
    with suppress(OSError):  # the folder's disk may be full
        if code < 0:  # what was started here; the ranks know no more than that it is gone
            is_rank = launcher.startswith("python")
            who = "MPI rank 0" if is_rank else f"{launcher}, which started the ranks,"
            failure = {"mpi_rank": 0 if is_rank else None, "text": f"{who} {signal_text(-code)}"}
            run_folder.write_json_atomic(FAILURE_FILE, failure)
        elif killed is not None:
            run_folder.record_failure(*killed)


def _watch(job: subprocess.Popen, run_folder: RunFolder, on_status: StatusWatcher) -> int:
    while True:
        try:
            code = job.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        status = run_folder.read_status()
        if status is not None:
            on_status(status)
        if code is not None:
            return code


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return "\n".join(lines[-_TAIL_LINES:])


def _is_launcher_variable(name: str) -> bool:
    if name.startswith(_SETTINGS):
        return False
    return any(name == known or (known.endswith("_") and name.startswith(known)) for known in _LAUNCHER_VARIABLES)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, as Ctrl-C already is, so that `finally` ends the ranks.

    Only the main thread may do that; a caller in another one has the signals of its program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
