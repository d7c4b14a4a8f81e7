"""Whether a run waits, works, has ended, and how: from its lock, its files and, where there is one, its Slurm job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from heterotune.errors import PREEMPTED, LaunchError
from heterotune.launching.follow import read_exit_code
from heterotune.launching.slurm_cluster import JobState, read_job_states
from heterotune.launching.stopping import STOP_FILE
from heterotune.launching.submit import JOB_FILE
from heterotune.run_folder import RunFolder
from heterotune.run_lock import is_alive, read_holder

StateName = Literal["not started", "queued", "starting", "running", "finished", "stopped", "failed"]

ENDED: tuple[StateName, ...] = ("finished", "stopped", "failed")
_BEFORE_START = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")


@dataclass(frozen=True)
class RunState:
    """What a run does, and why that is thought.

    Attributes:
        name: In one word.
        reason: In a few more; "" if the word says it all.
    """

    name: StateName
    reason: str = ""


def read_job_id(folder: RunFolder) -> str:
    """Return Slurm's number of a run's job, "" if Slurm has none of it."""
    path = folder.path / JOB_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def ask_slurm(job: str) -> JobState | None:
    """Return what Slurm says about a job; None if there is no job or no Slurm here, or it does not know or answer."""
    if not job or shutil.which("scontrol") is None:
        return None
    try:
        states = read_job_states(job)
    except LaunchError:
        return None
    return states[0] if states else None


def judge(folder: RunFolder, status: Mapping[str, Any], job_state: JobState | None) -> RunState:
    """Decide what a run does.

    Args:
        folder: Its folder.
        status: Its status.json, {} if there is none.
        job_state: From `ask_slurm`.
    """
    holder = read_holder(folder.path)
    if holder:
        return _of_a_lock(folder.path, holder, job_state)
    if job_state is not None and job_state.name in _BEFORE_START:
        return RunState("queued", " ".join(filter(None, ("Slurm:", job_state.name, job_state.reason))))
    if job_state is not None and not job_state.has_ended:
        return RunState("starting", f"Slurm: {job_state.name}")
    if status.get("state") == "starting" and is_alive(status.get("launcher", {})) is True:
        return RunState("starting")
    return _of_the_files(folder, status, job_state)


def _of_a_lock(path: Path, holder: Mapping[str, Any], job_state: JobState | None) -> RunState:
    """Judge a run that some process holds, or held when it died."""
    who = f"process {holder['pid']} on {holder['host']}"
    alive = is_alive(holder)
    if alive is False:
        return RunState("failed", f"{who} is gone and left its lock; it was killed, or the machine was restarted")
    if alive is None and holder["job"] and job_state is not None and job_state.has_ended:
        return RunState("failed", f"{who} is gone with its job (Slurm: {job_state.name})")
    asked = "; asked to stop" if (path / STOP_FILE).exists() else ""
    return RunState("running", f"{who} since {holder['since']}{asked}")


def _of_the_files(folder: RunFolder, status: Mapping[str, Any], job_state: JobState | None) -> RunState:
    """Judge a run in whose folder nobody works."""
    failure, code = folder.read_failure(), read_exit_code(folder)
    if failure is not None:
        who = f"MPI rank {failure['mpi_rank']}"
        last_line = (failure["text"].strip().splitlines() or ["no message"])[-1]
        names_it = failure["mpi_rank"] is None or last_line.startswith(who)
        return RunState("failed", last_line if names_it else f"{who}: {last_line}")
    if status.get("state") == "done" and folder.find_summary() is not None:
        return RunState("finished")
    if code not in (None, 0, PREEMPTED):
        return RunState("failed", f"its batch script ended with exit code {code}")
    if status.get("state") == "starting":
        return RunState("failed", "it ended before its ranks had begun")
    if status:
        return RunState("stopped", "it can go on with `heterotune resume`")
    if job_state is not None:
        return RunState("failed", f"its job ended before its ranks had begun (Slurm: {job_state.name})")
    return RunState("not started")
