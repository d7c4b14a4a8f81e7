"""Reads ledger.jsonl and traffic.jsonl of a run folder, line by line, and refuses what no run wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from heterotune.collective.ledger import LedgerEntry
from heterotune.errors import RecordError

_MAX_LINE_BYTES = 1 << 20

Record = TypeVar("Record")


@dataclass(frozen=True)
class TrafficRow:
    """What one rank moved in one round under one verb, as `traffic.Moved`."""

    round_number: int
    mpi_rank: int
    what: str
    num_calls: int
    sent_bytes: int
    received_bytes: int
    seconds: float


def read_ledger(path: Path, say: Callable[[str], None]) -> Iterator[LedgerEntry]:
    """Go through a ledger.jsonl.

    Args:
        path: The file.
        say: Told if the last line is cut off, as a run leaves it that was killed while it wrote.

    Raises:
        RecordError: If another line is damaged, or if rounds do not come in order.
    """
    yield from _read(path, say, _ledger_entry, lambda entry: entry.round_number)


def read_traffic(path: Path, say: Callable[[str], None]) -> Iterator[TrafficRow]:
    """Go through a traffic.jsonl; as `read_ledger`."""
    yield from _read(path, say, _traffic_row, lambda row: row.round_number)


def _read(
    path: Path, say: Callable[[str], None], parse: Callable[[Any], Record], round_of: Callable[[Record], int]
) -> Iterator[Record]:
    newest = 0
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(_MAX_LINE_BYTES), b"")
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES:
                say(f"{path.name}: line {number} is cut off and was left out; the run was ended while it wrote.")
                return
            try:
                record = parse(json.loads(line))
                if round_of(record) < newest:
                    raise ValueError(f"round {round_of(record)} comes after round {newest}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise RecordError(f"{path}, line {number}: {reason}. The file is damaged from there on.") from error
            newest = round_of(record)
            yield record


def _ledger_entry(line: Any) -> LedgerEntry:
    entry = LedgerEntry(
        _count(line, "round"),
        _count(line, "client"),
        _word(line, "direction"),
        _word(line, "group"),
        _word(line, "model_type"),
        _count(line, "bytes"),
    )
    if entry.direction not in ("down", "up"):
        raise ValueError(f"direction is {entry.direction!r}, not up or down")
    return entry


def _traffic_row(line: Any) -> TrafficRow:
    counts = [_count(line, name) for name in ("calls", "sent_bytes", "received_bytes")]
    seconds = line["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError(f"seconds is {seconds!r}, not a number of at least 0")
    return TrafficRow(_count(line, "round"), _count(line, "mpi_rank"), _word(line, "what"), *counts, float(seconds))


def _count(line: Any, name: str) -> int:
    if not isinstance(line, dict):
        raise ValueError("it is no JSON object")
    if isinstance(line[name], bool) or not isinstance(line[name], int) or line[name] < 0:
        raise ValueError(f"{name} is {line[name]!r}, not a whole number of at least 0")
    return line[name]


def _word(line: Any, name: str) -> Any:
    if not isinstance(line[name], str):
        raise ValueError(f"{name} is {line[name]!r}, not a word")
    return line[name]
