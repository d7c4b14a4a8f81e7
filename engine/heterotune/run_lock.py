"""One job at a time works in a run folder: RUN/lock names the process that does."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from heterotune.errors import LaunchError

LOCK_FILE = "lock"
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")
PATIENCE_SECONDS = 10.0
"""A launcher may return a moment before the last of its ranks is gone; so long a holder on this host gets to leave."""
_POLL_SECONDS = 0.2


@contextmanager
def locked(folder: Path, environ: Mapping[str, str], patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a run folder's lock. The root calls this; a lock that its holder left behind is taken over.

    Args:
        folder: The run folder.
        environ: Says which batch job this is: a requeued job takes over its own lock.
        patience_seconds: How long to wait for the holder to leave.

    Raises:
        LaunchError: If another job holds it, with the holder's name; or if the folder cannot be written to.
    """
    lock, mine = folder / LOCK_FILE, this_process(environ)
    try:
        _take(lock, mine, time.monotonic() + patience_seconds)
    except OSError as error:
        raise LaunchError(
            f"{folder}: the run folder cannot be written to ({error.strerror}). "
            "Free space there or make it writable, or choose another folder."
        ) from error
    try:
        yield
    finally:
        if _read(lock) == mine:
            lock.unlink()


def _take(lock: Path, mine: dict[str, Any], deadline: float) -> None:
    unfinished = lock.with_name(f".{lock.name}.{mine['host']}.{mine['pid']}")
    unfinished.write_text(json.dumps(mine))
    try:
        while not _linked(unfinished, lock):
            holder = _read(lock)
            if not holder or _is_gone(holder, mine):
                lock.unlink(missing_ok=True)
            elif holder["host"] != mine["host"] or time.monotonic() > deadline:
                raise LaunchError(_told(lock, holder))
            else:
                time.sleep(_POLL_SECONDS)
    finally:
        unfinished.unlink()


def _linked(unfinished: Path, lock: Path) -> bool:
    """Put a lock in its place, whole or not at all; False if somebody was first."""
    try:
        os.link(unfinished, lock)
    except FileExistsError:
        return False
    return True


def this_process(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what tells this process from every other: host, pid, start, and the batch job that it is in."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "job": next((environ[name] for name in _JOB_VARIABLES if environ.get(name)), ""),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _is_gone(holder: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Return whether a holder works no more: it died on this host, or was an earlier attempt of this batch job."""
    if holder["host"] == mine["host"]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(holder["pid"])
            return process.create_time() != holder["process_started"] or process.status() == psutil.STATUS_ZOMBIE
        return True
    return bool(mine["job"]) and holder["job"] == mine["job"]


def _told(lock: Path, holder: Mapping[str, Any]) -> str:
    job = f" of job {holder['job']}" if holder["job"] else ""
    who = f"process {holder['pid']} on {holder['host']}{job}"
    return (
        f"{lock.parent}: {who} works in this run folder since {holder['since']}. Wait for it or stop it; "
        f"if it is gone for good, remove {lock}."
    )


def read_holder(folder: Path) -> dict[str, Any]:
    """Return who holds a run folder's lock, as `this_process` wrote it; {} if nobody does."""
    return _read(folder / LOCK_FILE)


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process that `this_process` described works still; None if that cannot be known from here."""
    if process.get("host") != socket.gethostname() or not process.keys() >= {"pid", "process_started"}:
        return None
    return not _is_gone(process, this_process({}))


def _read(lock: Path) -> dict[str, Any]:
    """Return a lock's holder; {} if there is none or it is unreadable."""
    try:
        holder = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    known = isinstance(holder, dict) and holder.keys() >= {"host", "pid", "process_started", "job", "since"}
    return holder if known else {}
