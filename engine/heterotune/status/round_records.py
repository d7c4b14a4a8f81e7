"""The newest lines of metrics.jsonl, without reading all of a long run's."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.run_folder import METRICS_FILE

TAIL_BYTES = 1 << 20
_RECENT_ROUNDS = 10


@dataclass(frozen=True)
class RoundRecords:
    """What the newest metrics say.

    Attributes:
        rounds_done: Newest round that ended, 0 = none.
        seconds_per_round: Median of the newest rounds; None before the first.
        losses: Model type -> newest held-out loss.
        earlier_losses: Model type -> oldest held-out loss among these lines, with its round.
    """

    rounds_done: int
    seconds_per_round: float | None
    losses: dict[str, float | None]
    earlier_losses: dict[str, tuple[int, float | None]]


def read_round_records(folder: Path) -> RoundRecords:
    """Read the end of a strategy's metrics.jsonl; a run may write to it meanwhile.

    Args:
        folder: The run folder, or that of a comparison in it.
    """
    lines = _tail(folder / METRICS_FILE)
    seconds = [line for line in lines if line.get("name") == "seconds/round"]
    evaluations = [line for line in lines if line.get("name") == "loss/eval" and "model_type" in line]
    recent = [line["value"] for line in seconds[-_RECENT_ROUNDS:] if line.get("value") is not None]
    earlier: dict[str, tuple[int, float | None]] = {}
    for line in evaluations:
        earlier.setdefault(line["model_type"], (line["round"], line["value"]))
    return RoundRecords(
        rounds_done=seconds[-1]["round"] if seconds else 0,
        seconds_per_round=statistics.median(recent) if recent else None,
        losses={line["model_type"]: line["value"] for line in evaluations},
        earlier_losses=earlier,
    )


def seconds_left(
    strategies: Sequence[str], current: str, rounds: int, rounds_done: int, seconds_per_round: float | None
) -> float | None:
    """Estimate how long a run still needs: each strategy that is to come takes as long a round as the one at work."""
    if seconds_per_round is None or current not in strategies:
        return None
    later = len(strategies) - 1 - list(strategies).index(current)
    return seconds_per_round * (max(0, rounds - rounds_done) + later * rounds)


def _tail(path: Path) -> list[Mapping[str, Any]]:
    """Return the whole lines at the end of a file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read(TAIL_BYTES).split(b"\n")
    whole = lines[1 if start else 0 : -1]  # the first may be cut off, the last is not finished
    return [record for line in whole if isinstance(record := _parsed(line), dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # `heterotune ledger` and `report` say so; here the rest of the line-up counts
        return None
