"""Following a job in the queue to its end. Works without Slurm's accounting data base."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from heterotune.errors import LaunchError
from heterotune.launching.slurm_cluster import JobState, read_job_states
from heterotune.launching.slurm_script import EXIT_CODE_FILE
from heterotune.launching.submit import Submission
from heterotune.run_folder import RunFolder

POLL_SECONDS = 5.0
MAX_SILENT_POLLS = 3
"""Polls in a row in which Slurm knows nothing of a job that left no exit code."""
MAX_UNREACHABLE_POLLS = 360
"""Polls in a row in which Slurm does not answer; its controller may be restarted meanwhile."""


def follow(
    submission: Submission,
    *,
    on_change: Callable[[str], None],
    on_poll: Callable[[], None] = lambda: None,
    read_states: Callable[[str], list[JobState]] = read_job_states,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait for a job, or for every task of an array.

    A job that is put back into the queue is waited for again. Slurm forgets a job some minutes after its end
    (MinJobAge); then the exit code that the script left in the run folder counts.

    Args:
        submission: The job.
        on_change: Called with a few words when the job's state changes.
        on_poll: Called after each look.
        read_states: Asks Slurm.
        sleep: Waits between two looks.

    Returns:
        The job's exit code; of an array, the largest.

    Raises:
        LaunchError: If Slurm does not know the job and it left no exit code, or does not answer for half an hour.
    """
    said, silent, unreachable = "", 0, 0
    while True:
        try:
            states, unreachable = read_states(submission.job), 0
        except LaunchError:
            unreachable += 1
            if unreachable > MAX_UNREACHABLE_POLLS:
                raise
            sleep(POLL_SECONDS)
            continue
        words = describe(states)
        if words and words != said:
            on_change(words)
            said = words
        on_poll()
        left = [code for folder in submission.folders if (code := read_exit_code(folder)) is not None]
        if states and all(state.has_ended for state in states):
            return max(*(state.exit_code for state in states), *left, 0)  # Slurm may have forgotten earlier tasks
        if not states and len(left) == len(submission.folders):
            return max(left)
        silent = 0 if states else silent + 1
        if silent > MAX_SILENT_POLLS:
            raise LaunchError(
                f"Slurm does not know job {submission.job} any more, and it left no exit code in its run folder: it "
                f"was cancelled, or its node is gone. See {submission.log}; go on with `sbatch {submission.script}`."
            )
        sleep(POLL_SECONDS)


def describe(states: Sequence[JobState]) -> str:
    """Return a job's state in a few words; of an array, how many tasks are in which."""
    if len(states) == 1:
        waits_for = f" ({states[0].reason})" if states[0].name == "PENDING" and states[0].reason else ""
        return states[0].name + waits_for
    counts = Counter(state.name for state in states)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def read_exit_code(folder: RunFolder) -> int | None:
    """Return the exit code that the batch script left in a run folder, None if it left none."""
    path = folder.path / EXIT_CODE_FILE
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None
