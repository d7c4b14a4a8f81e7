"""Inside a batch job that was interrupted: shall it go back into the queue?

The batch script asks `python -m heterotune.launching.requeue RUN_DIR --job ID`; exit code 0 means yes. A job that was
interrupted twice in a row without a new checkpoint would go on like that for ever, so it is not put back.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from heterotune.errors import LaunchError
from heterotune.launching.progress import saved_rounds, told
from heterotune.launching.slurm_cluster import JobState, read_job_states
from heterotune.run_folder import RunFolder

REQUEUES_FILE = "requeues.json"
MAX_WITHOUT_PROGRESS = 1
"""Interruptions in a row without a new checkpoint after which a job is still put back."""

NOT_REQUEUED = 1


@dataclass(frozen=True)
class Interruptions:
    """What is remembered from one interruption of a job to the next.

    Attributes:
        job: Slurm's number of the job; it stays the same when a job is put back.
        saved: As `saved_rounds` returned it at the last interruption.
        without_progress: How many interruptions in a row brought no new checkpoint.
    """

    job: str
    saved: dict[str, int] = field(default_factory=dict)
    without_progress: int = 0


@dataclass(frozen=True)
class Decision:
    """Whether to put a job back, why, and what to remember."""

    requeue: bool
    message: str
    remembered: Interruptions


def decide(before: Interruptions, saved: dict[str, int], state: JobState | None) -> Decision:
    """Decide about a job that was interrupted.

    Args:
        before: What was remembered at its last interruption; fresh for a job that never had one.
        saved: `saved_rounds` now.
        state: What Slurm says about the job; None if it does not say.

    Returns:
        The decision. A job that somebody cancelled, or that Slurm itself puts back, is left alone.
    """
    if state is not None and not (state.name == "RUNNING" or state.reason == "TimeLimit"):
        return Decision(False, f"Slurm ends or requeues this job itself ({state.name}): left alone.", before)
    if any(number > before.saved.get(folder, 0) for folder, number in saved.items()):
        return Decision(True, f"Saved: {told(saved)}. Requeued.", Interruptions(before.job, saved))
    now = replace(before, without_progress=before.without_progress + 1)
    if now.without_progress <= MAX_WITHOUT_PROGRESS:
        return Decision(True, f"Nothing new saved ({told(saved)}). Requeued once more.", now)
    why = f"Interrupted {now.without_progress} times in a row with nothing new saved ({told(saved)}): not requeued"
    return Decision(False, f"{why}. Raise --time or --signal-seconds, or make a round shorter.", now)


def read_interruptions(run_dir: Path, job: str) -> Interruptions:
    """Return what an earlier attempt of the same job remembered; a fresh record for another job."""
    try:
        remembered = Interruptions(**json.loads((run_dir / REQUEUES_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Interruptions(job)
    return remembered if remembered.job == job else Interruptions(job, remembered.saved)


def main(arguments: Sequence[str] | None = None) -> int:
    """Decide, say it, remember it; exit code 0 = put the job back."""
    parser = argparse.ArgumentParser(prog="heterotune.launching.requeue", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="the run folder")
    parser.add_argument("--job", required=True, help="Slurm's number of the job")
    options = parser.parse_args(arguments)
    state = _state_of(options.job)
    before = read_interruptions(options.run_dir, options.job)
    decision = decide(before, saved_rounds(options.run_dir), state)
    RunFolder.open(options.run_dir).write_json_atomic(REQUEUES_FILE, asdict(decision.remembered))
    print(decision.message, file=sys.stderr)
    return 0 if decision.requeue else NOT_REQUEUED


def _state_of(job: str) -> JobState | None:
    """Ask Slurm about a job; a Slurm that does not answer does not keep a job from going back."""
    try:
        states = read_job_states(job)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return None
    return states[0] if states else None


if __name__ == "__main__":
    sys.exit(main())
