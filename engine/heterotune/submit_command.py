"""`heterotune submit`: what the command does, and what it says on the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from heterotune.launching.batch_request import BatchRequest
from heterotune.launching.failure import batch_failure_text
from heterotune.launching.follow import follow
from heterotune.launching.slurm_script import render
from heterotune.launching.submit import (
    Submission,
    choose_via,
    load_checked,
    new_run_dir,
    plan,
    submit,
    unnamed_run_dir,
)
from heterotune.report.live_display import LiveDisplay
from heterotune.report.terminal import final_report, report_console


def submit_run(
    run_yaml: Path,
    overrides: Sequence[str],
    request: BatchRequest,
    run_dir: Path | None,
    python: str,
    *,
    dry_run: bool,
    wait: bool,
    as_json: bool = False,
) -> int:
    """Check a run and a request, submit the job, and follow it if that is wanted.

    Args:
        run_yaml: The run file.
        overrides: As `--set` takes them.
        request: The options of the batch system.
        run_dir: Absolute run folder that was named; None = a new one in the run's output folder.
        python: Interpreter on the nodes.
        dry_run: Print the script instead; nothing is made, nobody is asked.
        wait: Follow the job to its end.
        as_json: Print the job, its folders and its log as JSON; what is said meanwhile goes to standard error.

    Returns:
        0, or the job's exit code if it was followed.

    Raises:
        ConfigError: With everything that is wrong.
        LaunchError: If Slurm refuses the job or loses it.
        DataError, ModelError: If the run could not start; they are looked for here, so that nobody queues in vain.
    """
    console = report_console(stderr=as_json)
    config = load_checked(run_yaml, overrides, request, run_dir, dry_run=dry_run)
    via = choose_via(request, python, lambda warning: _print(console, f"Warning: {warning}"), dry_run=dry_run)
    if dry_run:
        print(render(plan(config, request, run_dir or unnamed_run_dir(config), python, via)), end="")
        return 0
    from heterotune import preflight

    preflight.check(config)
    submission = submit(plan(config, request, run_dir or new_run_dir(config), python, via), config, os.environ)
    if as_json:
        print(json.dumps(_as_json(submission), indent=1), flush=True)
    else:
        for line in _submission_lines(submission):
            _print(console, line)
    return _follow(submission, console) if wait else 0


def _as_json(submission: Submission) -> dict[str, object]:
    """What a script needs to know about a job that was submitted."""
    folders = [str(folder.path) for folder in submission.folders]
    return {"job": submission.job, "script": str(submission.script), "run_dirs": folders, "log": str(submission.log)}


def _submission_lines(submission: Submission) -> list[str]:
    """What there is to know about a job that was submitted."""
    job = submission.job
    return [
        f"job         {job}",
        f"run folder  {submission.script.parent}",
        f"log         {submission.log}",
        f"watch       tail -F {submission.log}    squeue -j {job}",
        f"stop        scancel {job}    (go on later with: sbatch {submission.script})",
    ]


def _follow(submission: Submission, console: Console) -> int:
    """Show a job's states, and the rounds if it is a single run; then its report, or why it failed."""
    try:
        with LiveDisplay(console) as display:
            code = follow(
                submission,
                on_change=lambda words: _print(console, f"job {submission.job}: {words}"),
                on_poll=lambda: _show_status(submission, display),
            )
    except KeyboardInterrupt:
        _print(console, f"No longer watched. Job {submission.job} goes on; `scancel {submission.job}` ends it.")
        return 130
    _show_end(submission, code, console)
    return code


def _show_status(submission: Submission, display: LiveDisplay) -> None:
    status = submission.folders[0].read_status() if len(submission.folders) == 1 else None
    if status is not None:
        display.show(status)


def _show_end(submission: Submission, code: int, console: Console) -> None:
    if code == 0 and len(submission.folders) == 1:
        folder = submission.folders[0]
        console.print(final_report(folder.read_summary(), folder.path))
    elif code != 0:
        _print(console, f"The job failed (exit code {code}); its log is {submission.log}.")
        for folder in submission.folders:
            if folder.read_failure() is not None:
                _print(console, f"{folder.path}\n{batch_failure_text(folder)}")


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
