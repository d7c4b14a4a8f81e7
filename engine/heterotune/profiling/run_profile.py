"""What a run folder says of memory: the highest peak of every MPI rank and phase, and what is missing; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heterotune.errors import LaunchError
from heterotune.profiling.leaks import Leak, find_leaks
from heterotune.run_folder import CONFIG_FILE, MEMORY_FILE, SPANS_FILE, RunFolder

PHASES = (
    *("load", "build", "align", "train", "encode"),
    *("gather", "aggregate", "broadcast", "distill", "evaluate", "checkpoint"),
)
"""In the order in which a round comes to them; the first three run once."""
_ONLY_SOME = ("load", "align", "distill")
"""Phases that not every strategy of a run has."""
_COMPARISONS = "compare"


@dataclass(frozen=True)
class PhasePeak:
    """The highest peak of one kind of memory on one MPI rank in one phase, over all rounds.

    Attributes:
        mpi_rank: Where.
        phase: When; `round_number` says in which round it was highest.
        kind: Of what, see `kinds`.
        peak_bytes: Measured.
        estimate_bytes: The plan's; None if nobody planned.
        components: Component -> bytes; empty where they are not known.
    """

    mpi_rank: int
    phase: str
    kind: str
    round_number: int
    peak_bytes: int
    estimate_bytes: int | None
    components: Mapping[str, int]

    @property
    def unexplained_bytes(self) -> int | None:
        """The peak less all components; None where they are not known."""
        return self.peak_bytes - sum(self.components.values()) if self.components else None


@dataclass(frozen=True)
class RunProfile:
    """One strategy's memory.

    Attributes:
        name: "" for the run's strategy, a comparison's strategy else.
        folder: Where its files are.
        peaks: By phase in their order, then MPI rank.
        leaks: Peaks that grow round after round.
        missing: What is not there and why, as sentences.
    """

    name: str
    folder: Path
    peaks: tuple[PhasePeak, ...]
    leaks: tuple[Leak, ...]
    missing: tuple[str, ...]

    def of_kind(self, kind: str) -> list[PhasePeak]:
        """Return the peaks of one kind."""
        return [peak for peak in self.peaks if peak.kind == kind]


def read_profiles(run_dir: Path) -> list[RunProfile]:
    """Return the profile of a run and of each of its comparisons, also if it crashed or still runs.

    Raises:
        LaunchError: If the folder is not there, or is no run folder.
    """
    folder = RunFolder.open(run_dir)
    if not any((folder.path / name).is_file() for name in (CONFIG_FILE, MEMORY_FILE)):
        raise LaunchError(
            f"{folder.path} is no run folder: it has no {CONFIG_FILE}. Give the folder that `heterotune run` named."
        )
    parts = sorted(path for path in (folder.path / _COMPARISONS).glob("*") if path.is_dir())
    num_rounds, ranks = _wanted_rounds(folder), [int(log.stem.removeprefix("rank-")) for log in _logs(folder)]
    profiles = [_read(part, folder, num_rounds, ranks) for part in (folder.path, *parts)]
    failure = folder.first_failure_text()
    if failure is None:
        return profiles
    first = profiles[0]
    told = (*first.missing, f"The run failed: {failure.splitlines()[0]} {failure.splitlines()[-1]}")
    return [RunProfile(first.name, first.folder, first.peaks, first.leaks, told), *profiles[1:]]


def read_spans(folder: Path) -> dict[str, Any]:
    """Return {"round", "ranks"}: the spans of the newest round, a list for each MPI rank.

    Raises:
        LaunchError: If no round has ended.
    """
    try:
        return json.loads((folder / SPANS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"{folder} has no {SPANS_FILE}: no round has ended, so there is nothing to trace.") from None


def _read(path: Path, run: RunFolder, num_rounds: int | None, ranks: Sequence[int]) -> RunProfile:
    name = "" if path == run.path else path.name
    if not (path / MEMORY_FILE).is_file():
        return RunProfile(name, path, (), (), (f"{path / MEMORY_FILE} is missing: nothing was measured so far.",))
    broken: list[int] = []
    records = list(_lines(path / MEMORY_FILE, broken))
    missing = [f"{MEMORY_FILE}: line {number} is cut or broken, and left out." for number in broken]
    missing += _missing(records, num_rounds, ranks, is_comparison=bool(name))
    return RunProfile(name, path, highest_peaks(records), tuple(find_leaks(records)), tuple(missing))


def highest_peaks(records: Iterable[Mapping[str, Any]]) -> tuple[PhasePeak, ...]:
    """Return the highest line of memory.jsonl for each MPI rank, phase and kind."""
    highest: dict[tuple[int, str, str], Mapping[str, Any]] = {}
    for record in records:
        key = (record["mpi_rank"], record["phase"], record["kind"])
        if key not in highest or record["peak_bytes"] > highest[key]["peak_bytes"]:
            highest[key] = record
    peaks = [
        PhasePeak(*key, each["round"], each["peak_bytes"], each.get("estimate_bytes"), each.get("components", {}))
        for key, each in highest.items()
    ]
    order = {phase: place for place, phase in enumerate(PHASES)}
    return tuple(sorted(peaks, key=lambda peak: (order.get(peak.phase, len(order)), peak.phase, peak.mpi_rank)))


def _lines(path: Path, broken: list[int]) -> Iterator[Mapping[str, Any]]:
    """Go through the lines that are whole; numbers of the others, from 1, go to `broken`."""
    needed = {"round", "mpi_rank", "phase", "kind", "peak_bytes"}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and needed <= record.keys():
            yield record
        else:
            broken.append(number)


def _missing(
    records: Sequence[Mapping[str, Any]], num_rounds: int | None, ranks: Sequence[int], *, is_comparison: bool
) -> Iterator[str]:
    """Yield what a whole run would have beside these records."""
    last = max((record["round"] for record in records), default=0)
    if num_rounds is None:
        yield f"{CONFIG_FILE} cannot be read, so nobody knows how many rounds there should be."
    elif last < num_rounds:
        yield f"Rounds {last + 1} to {num_rounds} are missing: the run goes on, or it ended early."
    if silent := sorted(set(ranks) - {record["mpi_rank"] for record in records}):
        yield f"MPI ranks {', '.join(map(str, silent))} wrote a log, but no memory."
    found = {record["phase"] for record in records}
    wanted = [phase for phase in PHASES if phase not in _ONLY_SOME or (phase == "load" and not is_comparison)]
    if absent := [phase for phase in wanted if phase not in found]:
        yield f"No rank has finished these phases: {', '.join(absent)}."


def _wanted_rounds(folder: RunFolder) -> int | None:
    try:
        rounds = yaml.safe_load(folder.config_path.read_text(encoding="utf-8"))["rounds"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return rounds if isinstance(rounds, int) else None


def _logs(folder: RunFolder) -> list[Path]:
    return sorted(log for log in folder.log_folder.glob("rank-*.log") if log.stem.removeprefix("rank-").isdigit())
