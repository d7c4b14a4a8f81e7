"""Availability from a file: windows of clients, or of classes that clients draw.

client,start_seconds,end_seconds        or one JSON object a line with the same three keys;
0,0,21600                               `class` instead of `client`: each client draws one of the classes
0,79200,86400
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.errors import ConfigError
from heterotune.fleet.trace_files import checked_trace, trace_sha256
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_KEY = "availability.trace"
Windows = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, eq=False)
class Trace:
    """Windows of owners; a client has one owner or, with -1, none and is never available.

    Attributes:
        owner_of: Owner of each client, int32, 4 bytes a client of the population.
        owners: Owner of each window, in rising order.
        starts: Its start in seconds from the period's; rising for each owner, no two windows touch.
        ends: Its end, at most the period's.
        period_seconds: After which all repeats.
    """

    owner_of: np.ndarray
    owners: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    period_seconds: float

    def at(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return whether clients are in one of their windows."""
        return self._place(self.owner_of[client_ids], seconds % self.period_seconds)[1]

    def until(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return when the windows end that clients are in; one at the period's end goes on in one at its start."""
        owners, phase = self.owner_of[client_ids], seconds % self.period_seconds
        places, is_inside = self._place(owners, phase)
        ends = np.where(is_inside, self.ends[places], phase)
        first = np.minimum(np.searchsorted(self.owners, owners), len(self.owners) - 1)
        goes_on = is_inside & (ends == self.period_seconds) & (self.starts[first] == 0.0)
        ends = np.where(goes_on, self.period_seconds + self.ends[first], ends)
        is_endless = goes_on & (self.ends[first] == self.period_seconds)
        return np.where(is_endless, np.inf, seconds - phase + ends)

    @cached_property
    def _begun(self) -> np.ndarray:
        """Owner of each window, and its start as a share of the period: rising. Made once, 8 bytes a window."""
        return self.owners + self.starts / self.period_seconds

    def _place(self, owners: np.ndarray, phase: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the last window that begins before a time of the period, and whether it is open then."""
        places = np.searchsorted(self._begun, owners + phase / self.period_seconds, side="right") - 1
        is_inside = (places >= 0) & (self.owners[places] == owners) & (phase < self.ends[places])
        return places, is_inside


def windows_sha256(path: Path) -> str:
    """Return the SHA-256 of a trace; raises ConfigError if no such file is there."""
    return trace_sha256(_KEY, path, _READERS)


def read_trace(options: AvailabilityOptions, num_clients: int, *, run_seed: int) -> Trace:
    """Read a trace.

    Args:
        options: Where it is, and after how many seconds it repeats; null = the last end in it.
        num_clients: Clients of the population.
        run_seed: Draws the clients' classes.

    Raises:
        ConfigError: If there is no such file or it is another one than at the run's start, if a line is wrong, or a
            client is not in the fleet; names the line.
    """
    assert options.trace is not None
    path = checked_trace(_KEY, options.trace, _READERS, options.trace_sha256)
    try:
        column, windows = _read_windows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([f"{_KEY} = {path}: not text in UTF-8 ({error}). Correct it."]) from None
    period = options.period_seconds or max(end for of_owner in windows.values() for _, end in of_owner)
    if column == "client":
        owner_of = np.full(num_clients, -1, dtype=np.int32)
        ids = [_client(name, num_clients, path) for name in windows]
        owner_of[ids] = np.arange(len(ids), dtype=np.int32)
    else:
        draw = generator(run_seed, NO_ROUND, NO_CLIENT, "availability")
        owner_of = draw.integers(len(windows), size=num_clients, dtype=np.int32)
    rows = [
        (owner, start, end)
        for owner, (name, of_owner) in enumerate(windows.items())
        for start, end in _within(of_owner, period, f"availability.trace = {path}: {column} {name}")
    ]
    owners, starts, ends = (np.array(values) for values in zip(*rows, strict=True))
    return Trace(owner_of, owners, starts, ends, period)


def _read_windows(path: Path) -> tuple[str, Windows]:
    """Return whether owners are clients or classes, and the windows of each in the order of the file."""
    column, windows = "", Windows()
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in _READERS[path.suffix](file):
            where = f"availability.trace = {path}, line {line}"
            owner_column, name, window = _window(row, where)
            if column not in ("", owner_column):
                raise ConfigError([f"{where}: names a {owner_column} after lines with a {column}. Use one of the two."])
            column = owner_column
            windows.setdefault(name, []).append(window)
    if not windows:
        raise ConfigError([f"availability.trace = {path}: no window is in it. Add lines, or set model: always."])
    return column, windows


def _csv_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(file)
    return ((reader.line_num, row) for row in reader)


def _jsonl_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(file, start=1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except ValueError:
                yield line, None  # whoever looks at it names the line


_READERS = {".csv": _csv_rows, ".jsonl": _jsonl_rows}


def _window(row: Any, where: str) -> tuple[str, str, tuple[float, float]]:
    """Return what a line says: client or class, which, and its window."""
    known = row if isinstance(row, Mapping) else {}
    owners = [column for column in ("client", "class") if known.get(column) not in (None, "")]
    try:
        start, end = float(known["start_seconds"]), float(known["end_seconds"])
    except (KeyError, TypeError, ValueError):
        start, end = math.nan, math.nan
    if len(owners) != 1 or not 0.0 <= start < end < math.inf:
        needs = "one of client and class, and 0 <= start_seconds < end_seconds"
        raise ConfigError([f"{where}: a window needs {needs}. Correct the line."])
    return owners[0], str(known[owners[0]]), (start, end)


def _client(name: str, num_clients: int, path: Path) -> int:
    """Return a client's id."""
    if not name.isdecimal() or int(name) >= num_clients:
        told = f"availability.trace = {path}: client {name} is not in this fleet"
        raise ConfigError([f"{told}. Name ids from 0 to {num_clients - 1}, or use classes."])
    return int(name)


def _within(windows: Sequence[tuple[float, float]], period: float, where: str) -> list[tuple[float, float]]:
    """Return windows in rising order, none beyond the period's end, those that touch made one."""
    parts: list[tuple[float, float]] = []
    for start, end in windows:
        if start >= period or end - start > period:
            told = f"{where}: the window {start:g} to {end:g} does not fit into availability.period_seconds"
            raise ConfigError([f"{told} = {period:g}. Raise it, or cut the window."])
        parts += [(start, end)] if end <= period else [(start, period), (0.0, end - period)]
    merged: list[tuple[float, float]] = []
    for start, end in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
