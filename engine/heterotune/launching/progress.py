"""How far the job of a run folder has come, read from the names of its checkpoints. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from heterotune.run_folder import CHECKPOINTS_FOLDER, MANIFEST_FILE

_CHECKPOINT = re.compile(r"round-(\d+)\Z")


def saved_rounds(run_dir: Path) -> dict[str, int]:
    """Return the round of the newest complete checkpoint of every strategy that has one.

    Args:
        run_dir: The run folder.

    Returns:
        Folder of the strategy inside the run folder ("." is the run's own) -> round.
    """
    newest: dict[str, int] = {}
    for folder in (run_dir, *sorted(run_dir.glob("compare/*"))):
        matches = (
            _CHECKPOINT.match(path.parent.name) for path in folder.glob(f"{CHECKPOINTS_FOLDER}/round-*/{MANIFEST_FILE}")
        )
        if rounds := [int(match[1]) for match in matches if match]:
            newest[folder.relative_to(run_dir).as_posix()] = max(rounds)
    return newest


def told(saved: dict[str, int]) -> str:
    """Say how far a run has come: `round 8`, `round 8; compare/fedavg_lora: round 2`, or `no round`."""
    lines = [f"round {number}" if folder == "." else f"{folder}: round {number}" for folder, number in saved.items()]
    return "; ".join(lines) or "no round"
