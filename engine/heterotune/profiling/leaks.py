"""Memory that grows round after round: the slope of a rank's peak in a phase, told only where it is above the noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heterotune.profiling.kinds import DEVICE_ALLOCATED, HOST_RESIDENT

WARM_UP_ROUNDS = 2
"""Caches fill and the allocator finds its size in the first rounds."""
FEWEST_ROUNDS = 6
SLOPE_BYTES = 2**20
"""Growth by less than this a round is no alarm."""
NUM_ERRORS = 3.0
"""An alarm's slope is above this many standard errors."""


@dataclass(frozen=True)
class Slope:
    """A least-squares line through a series: its slope and the slope's standard error, bytes a round."""

    bytes_per_round: float
    error: float


@dataclass(frozen=True)
class Leak:
    """A peak that grows.

    Attributes:
        mpi_rank: Where.
        phase: When.
        kind: Of what.
        bytes_per_round: Slope of the peak over the rounds.
        error: The slope's standard error.
    """

    mpi_rank: int
    phase: str
    kind: str
    bytes_per_round: float
    error: float

    def __str__(self) -> str:
        return (
            f"memory leak? The {self.kind} peak of MPI rank {self.mpi_rank} in phase {self.phase} grows by "
            f"{self.bytes_per_round / 2**20:.1f} MiB a round (standard error {self.error / 2**20:.1f})."
        )

    def as_record(self) -> dict[str, Any]:
        """Return it for summary.json."""
        return asdict(self)


def find_leaks(records: Iterable[Mapping[str, Any]]) -> list[Leak]:
    """Return the leaks in lines of memory.jsonl, by MPI rank and phase.

    A leak grows by more than `SLOPE_BYTES` a round and `NUM_ERRORS` standard errors after the first rounds, and does
    so in each half of the series: one step, as when the allocator takes another arena, is none.
    """
    series: dict[tuple[int, str, str], dict[int, int]] = defaultdict(dict)
    for record in records:
        if record["kind"] in (HOST_RESIDENT, DEVICE_ALLOCATED) and record["round"] > WARM_UP_ROUNDS:
            peaks = series[record["mpi_rank"], record["phase"], record["kind"]]
            peaks[record["round"]] = max(peaks.get(record["round"], 0), record["peak_bytes"])
    leaks = []
    for (mpi_rank, phase, kind), peaks in sorted(series.items()):
        points = sorted(peaks.items())
        if is_leaking(points):
            line = slope(points)
            leaks.append(Leak(mpi_rank, phase, kind, line.bytes_per_round, line.error))
    return leaks


def is_leaking(points: Sequence[tuple[int, int]]) -> bool:
    """Return whether a series of (round, peak bytes), in order of rounds, grows throughout."""
    if len(points) < FEWEST_ROUNDS:
        return False
    whole, middle = slope(points), len(points) // 2
    is_steep = whole.bytes_per_round > max(SLOPE_BYTES, NUM_ERRORS * whole.error)
    halves = (points[:middle], points[middle:])
    return is_steep and all(slope(half).bytes_per_round > whole.bytes_per_round / 3 for half in halves)


def slope(points: Sequence[tuple[int, int]]) -> Slope:
    """Return the least-squares slope through at least two (round, bytes), and its standard error (0 for two points)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    steepness = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - steepness * (x - mean_x)) ** 2 for x, y in points)
    freedom = len(points) - 2
    return Slope(steepness, math.sqrt(rest / freedom / spread) if freedom else 0.0)
