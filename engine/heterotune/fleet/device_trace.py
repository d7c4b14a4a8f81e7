"""A trace of devices: a CSV file with one row a client, kept as one array a column."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heterotune.config.device_options import LARGEST, DeviceProfile, DevicesConfig
from heterotune.config.explain import shown
from heterotune.config.nearest import suggestion
from heterotune.errors import ConfigError
from heterotune.fleet.trace_files import checked_trace, trace_sha256

_KEY, _KINDS = "devices.trace", (".csv",)
PROFILE = "profile"
UNNAMED = "trace"
"""What a device is called in a trace that names no profiles."""
REQUIRED = ("flops_per_second", "memory_gib", "down_mbit_per_second", "up_mbit_per_second")
MAY_BE_ZERO = ("latency_seconds", "compute_watts", "radio_watts", "idle_watts")
NUMBERS = tuple(LARGEST)
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class DeviceTrace:
    """What a trace says of every client.

    Attributes:
        profiles: The profiles that it names; one that holds defaults, where it names none.
        places: Each client's place among them.
        columns: Key of a profile -> each client's value; NaN = the profile's null.
    """

    profiles: tuple[tuple[str, DeviceProfile], ...]
    places: np.ndarray
    columns: Mapping[str, np.ndarray]

    def row(self, client_id: int) -> tuple[str, DeviceProfile]:
        """Return the name of a client's profile, and the profile with the client's own values."""
        name, profile = self.profiles[self.places[client_id]]
        cells = {key: float(values[client_id]) for key, values in self.columns.items()}
        return name, profile.model_copy(update={key: cell for key, cell in cells.items() if cell == cell})

    def least_memory(self, clients: range) -> list[int]:
        """Return, for each profile that some of these clients have, the one of them with the least memory."""
        places = self.places[clients.start : clients.stop]
        memory = self.columns.get("memory_gib", np.zeros(len(self.places)))[clients.start : clients.stop]
        found = [np.flatnonzero(places == place) for place in np.unique(places)]
        return [clients.start + int(rows[np.argmin(memory[rows])]) for rows in found]


def devices_sha256(path: Path) -> str:
    """Return the SHA-256 of a trace; raises ConfigError if no such file is there."""
    return trace_sha256(_KEY, path, _KINDS)


def read_trace(devices: DevicesConfig, num_clients: int) -> DeviceTrace:
    """Read the rows of a fleet's clients; more rows are left alone.

    Args:
        devices: The section, with the profiles that the trace may name and the trace's path.
        num_clients: Clients of the fleet.

    Raises:
        ConfigError: If the file is missing or is another one than at the run's start, or a column, a row or a cell is
            wrong; with line numbers.
    """
    assert devices.trace is not None
    path = checked_trace(_KEY, devices.trace, _KINDS, devices.trace_sha256)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _Reading(str(path), devices.profiles, num_clients).trace(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([f"{path}: not a CSV file in UTF-8 ({error}). Correct it."]) from None


class _Reading:
    """One reading of a trace: its columns so far, and what is wrong with it."""

    def __init__(self, origin: str, profiles: Mapping[str, DeviceProfile], num_clients: int) -> None:
        self.origin, self.num_clients = origin, num_clients
        self.named = list(profiles)
        self.profiles = tuple(profiles.items())
        self.places, self.lines = array("i"), array("q")
        self.cells: dict[str, array] = {}
        self.problems: list[str] = []

    def trace(self, rows: Any) -> DeviceTrace:
        """Read header and rows."""
        header = [name.strip() for name in next(rows, [])]
        self._stop_if(self._header_problems(header))
        if PROFILE not in header:
            assumed = dict.fromkeys(REQUIRED, 1.0)  # every row has its own
            self.named, self.profiles = [UNNAMED], ((UNNAMED, DeviceProfile(**assumed)),)
        self.cells = {name: array("d") for name in header if name != PROFILE}
        for row in rows:
            if row:
                self._take(header, row, rows.line_num)
            if len(self.lines) == self.num_clients or len(self.problems) >= _MOST_PROBLEMS:
                break
        self._stop_if(self.problems)
        self._stop_if(self._too_few())
        named, places = np.unique(np.array(self.places, dtype=np.int32), return_inverse=True)
        self.profiles, places = tuple(self.profiles[place] for place in named), places.astype(np.int32)
        columns = {name: self._filled(name, places) for name in self.cells}
        self._stop_if([problem for name, values in columns.items() for problem in self._out_of_range(name, values)])
        return DeviceTrace(self.profiles, places, columns)

    def _header_problems(self, header: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with the names of the columns."""
        known = (PROFILE, *NUMBERS)
        for name in header:
            if name not in known:
                yield f"{self.origin}, line 1: {shown(name)} is no column of a trace. {suggestion(name, known)}"
        for name in sorted({name for name in header if header.count(name) > 1}):
            yield f"{self.origin}, line 1: the column {name} is there twice. Keep one."
        missing = [name for name in REQUIRED if name not in header] if PROFILE not in header else []
        if missing:
            told = f"{self.origin}, line 1: no column {', '.join(missing)}"
            yield f"{told}, and no column {PROFILE} to take it from. Add one of the two."

    def _take(self, header: Sequence[str], row: Sequence[str], line: int) -> None:
        """Take one row."""
        if len(row) != len(header):
            cells = f"{len(row)} cells under {len(header)} columns"
            self.problems.append(f"{self.origin}, line {line}: {cells}. Give each column one.")
            return
        self.lines.append(line)
        place = 0
        for name, text in zip(header, row, strict=True):
            if name == PROFILE:
                place = self._place(text.strip(), line)
            else:
                self.cells[name].append(self._number(name, text.strip(), line))
        self.places.append(place)

    def _place(self, name: str, line: int) -> int:
        """Return the place of a profile that a row names."""
        if name in self.named:
            return self.named.index(name)
        way_out = suggestion(name, self.named) if self.named else "devices.profiles is empty, and no file is named."
        self.problems.append(f"{self.origin}, line {line}: profile = {shown(name)} is not known. {way_out}")
        return 0

    def _number(self, name: str, text: str, line: int) -> float:
        """Return a cell's number; NaN for an empty cell."""
        try:
            value = float(text) if text else float("nan")
        except ValueError:
            value = float("inf")
        if text and not abs(value) < float("inf"):
            self.problems.append(f"{self.origin}, line {line}: {name} = {shown(text)} is no finite number. Give one.")
        return value

    def _filled(self, name: str, places: np.ndarray) -> np.ndarray:
        """Return a column in which empty cells have the profile's value."""
        values = np.array(self.cells[name])
        of_profiles = np.array([_or_nan(getattr(profile, name)) for _, profile in self.profiles])
        if UNNAMED in self.named and name in REQUIRED:
            of_profiles[:] = float("nan")
        return np.where(np.isnan(values), of_profiles[places], values)

    def _out_of_range(self, name: str, values: np.ndarray) -> Iterator[str]:
        """Yield the first rows of a column that no device has."""
        is_bad = values < 0 if name in MAY_BE_ZERO else values <= 0
        for row in np.flatnonzero(is_bad)[:3]:
            rule = "at least 0" if name in MAY_BE_ZERO else "more than 0"
            yield f"{self.origin}, line {self.lines[row]}: {name} = {values[row]:g} is too small. Give {rule}."
        for row in np.flatnonzero(values > LARGEST[name])[:3]:
            rule = f"at most {LARGEST[name]:g}"
            yield f"{self.origin}, line {self.lines[row]}: {name} = {values[row]:g} is too large. Give {rule}."
        if name in REQUIRED:
            for row in np.flatnonzero(np.isnan(values))[:3]:
                yield f"{self.origin}, line {self.lines[row]}: {name} is empty, and there is no profile. Fill it in."

    def _too_few(self) -> Iterator[str]:
        """Yield that there are clients without a row."""
        if len(self.lines) < self.num_clients:
            told = f"{self.origin}: {len(self.lines)} rows for the fleet's {self.num_clients} clients"
            yield f"{told}. Add rows, or lower fleet.N.clients."

    def _stop_if(self, problems: Iterator[str] | Sequence[str]) -> None:
        if found := list(problems):
            raise ConfigError(found)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
