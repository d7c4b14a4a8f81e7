"""How far the job of a run folder has come, read from the names of what it saved. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from heterotune.run_folder import CHECKPOINTS_FOLDER, MANIFEST_FILE, PROGRESS_FOLDER

_CHECKPOINT = re.compile(r"round-(\d+)\Z")
_RECORD = re.compile(r"first-(\d+)-chunks-(\d+)-[0-9a-f]{64}\.safetensors\Z")


def saved_rounds(run_dir: Path) -> dict[str, int]:
    """Return the round of the newest complete checkpoint of every strategy, and what is finished of the next one.

    Args:
        run_dir: The run folder.

    Returns:
        Folder of the strategy inside the run folder ("." is the run's own) -> round; folder of a round's saved chunks
        ("progress/round-000004") -> how many. Each number only grows while its folder is there.
    """
    newest: dict[str, int] = {}
    for folder in (run_dir, *sorted(run_dir.glob("compare/*"))):
        matches = (
            _CHECKPOINT.match(path.parent.name) for path in folder.glob(f"{CHECKPOINTS_FOLDER}/round-*/{MANIFEST_FILE}")
        )
        if rounds := [int(match[1]) for match in matches if match]:
            newest[folder.relative_to(run_dir).as_posix()] = max(rounds)
            unfinished = folder / PROGRESS_FOLDER / f"round-{max(rounds) + 1:06d}"
            if num_chunks := _num_chunks(unfinished):
                newest[unfinished.relative_to(run_dir).as_posix()] = num_chunks
    return newest


def _num_chunks(folder: Path) -> int:
    """Return how many chunks the records in a folder have; of one rank's, which begin alike, the longest counts."""
    matches = (_RECORD.match(path.name) for path in folder.glob("first-*"))
    longest: dict[str, int] = {}
    for match in filter(None, matches):
        longest[match[1]] = max(longest.get(match[1], 0), int(match[2]))
    return sum(longest.values())


def told(saved: dict[str, int]) -> str:
    """Say how far a run has come, e.g. `round 8; compare/fedavg_lora: round 2; 5 chunks of round 3`, or `no round`."""
    return "; ".join(_told(Path(folder), number) for folder, number in saved.items()) or "no round"


def _told(folder: Path, number: int) -> str:
    if folder.parent.name == PROGRESS_FOLDER:
        return f"{number} chunks of round {int(folder.name.removeprefix('round-'))}"
    return f"round {number}" if folder == Path() else f"{folder.as_posix()}: round {number}"
