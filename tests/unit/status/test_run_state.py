"""What a run does, told from what is in its folder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from heterotune.launching.slurm_cluster import JobState
from heterotune.status import run_state
from heterotune.status.run_state import RunState, ask_slurm, judge, read_job_id

RUNNING = {"state": "running", "round": 2, "rounds": 3}


def judged(folder, job_state: JobState | None = None) -> RunState:
    return judge(folder, folder.read_status() or {}, job_state)


def write_lock(folder, holder: Any) -> None:
    (folder.path / "lock").write_text(json.dumps(holder))


def test_a_run_that_holds_its_lock(folder, working) -> None:
    folder.status(RUNNING)
    write_lock(folder, working)
    assert judged(folder).name == "running"
    assert judged(folder).reason == f"process {working['pid']} on {working['host']} since {working['since']}"
    (folder.path / "stop").touch()
    assert judged(folder).reason.endswith("; asked to stop")


def test_a_run_that_was_killed(folder, dead) -> None:
    folder.status(RUNNING)
    write_lock(folder, dead)
    assert judged(folder).name == "failed"
    assert f"process {dead['pid']} on {dead['host']} is gone and left its lock" in judged(folder).reason


def test_a_run_on_another_host_works_as_long_as_slurm_does_not_say_otherwise(folder, elsewhere) -> None:
    write_lock(folder, elsewhere)
    assert judged(folder).name == judged(folder, JobState("RUNNING")).name == "running"
    assert judged(folder, JobState("NODE_FAIL")).name == "failed"
    assert "is gone with its job (Slurm: NODE_FAIL)" in judged(folder, JobState("NODE_FAIL")).reason
    write_lock(folder, {**elsewhere, "job": ""})  # somebody goes on with it by hand; the job was an earlier one
    assert judged(folder, JobState("COMPLETED")).name == "running"


def test_before_its_ranks_have_begun(folder, working, dead) -> None:
    assert judged(folder) == RunState("not started")
    assert judged(folder, JobState("PENDING", "Resources")) == RunState("queued", "Slurm: PENDING Resources")
    assert judged(folder, JobState("RUNNING")) == RunState("starting", "Slurm: RUNNING")
    assert judged(folder, JobState("CANCELLED")).reason.endswith("before its ranks had begun (Slurm: CANCELLED)")
    folder.status({"state": "starting", "rounds": 3, "launcher": working})
    assert judged(folder) == RunState("starting")
    folder.status({"state": "starting", "rounds": 3, "launcher": dead})
    assert judged(folder) == RunState("failed", "it ended before its ranks had begun")


def test_how_it_ended(folder, summary) -> None:
    folder.status(RUNNING)
    assert judged(folder) == RunState("stopped", "it can go on with `heterotune resume`")
    (folder.path / "exit-code").write_text("75\n")
    assert judged(folder).name == "stopped"
    (folder.path / "exit-code").write_text("9\n")
    assert judged(folder) == RunState("failed", "its batch script ended with exit code 9")
    folder.record_failure(1, "Traceback ...\nValueError: loss is nan\n")
    assert judged(folder) == RunState("failed", "MPI rank 1: ValueError: loss is nan")
    (folder.path / "failure.json").unlink()
    folder.status({"state": "done", "round": 3, "rounds": 3})
    folder.write_summary(summary)
    assert judged(folder) == RunState("finished")
    assert judged(folder, JobState("PENDING")).name == "queued"  # more rounds were asked for


def test_what_slurm_says(folder, monkeypatch, tmp_path) -> None:
    assert (read_job_id(folder), ask_slurm("")) == ("", None)
    (folder.path / "job-id").write_text("42_3\n")
    assert read_job_id(folder) == "42_3"
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert ask_slurm("42_3") is None  # no Slurm here
    scontrol = tools / "scontrol"
    scontrol.write_text("#!/bin/sh\necho JobId=9 JobState=PENDING Reason=Priority\n")
    scontrol.chmod(0o755)
    assert ask_slurm("42_3") == JobState("PENDING", "Priority")
    scontrol.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact >&2; exit 1\n")
    assert ask_slurm("42_3") is None


@pytest.mark.parametrize("name", ["finished", "stopped", "failed"])
def test_these_are_ends(name: str) -> None:
    assert name in run_state.ENDED
