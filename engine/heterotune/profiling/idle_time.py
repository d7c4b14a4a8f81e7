"""How long a rank waits in a round: in the channel's calls, and in passes that it makes only to stay in lock step.

A call's time counts whole, so that moving bytes and being the first to come look alike; gathers of ZeRO-3 are work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from heterotune.collective.agreement import Verb

_CALLS = frozenset(verb.name.lower() for verb in Verb)


class IdleTime:
    """One rank's waiting in the round at work; at the root also every rank's over all rounds."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._waited_seconds = 0.0
        self._totals: dict[int, list[float]] = {}  # MPI rank -> seconds idle, seconds of its rounds

    def begin_round(self) -> None:
        """Forget what was waited for since the last round."""
        self._waited_seconds = 0.0

    def waited(self, what: str, seconds: float) -> None:
        """Note a collective operation that has just ended."""
        if what in _CALLS:
            self._waited_seconds += seconds

    def of_round(self, idle_seconds: float, round_seconds: float) -> list[float]:
        """Return (seconds idle, seconds of the round) for the root.

        Args:
            idle_seconds: Of passes that counted for nothing.
            round_seconds: The round's wall time on this rank.
        """
        return [min(round_seconds, self._waited_seconds + idle_seconds), round_seconds]

    def add(self, by_rank: Sequence[Sequence[float]]) -> list[float]:
        """Take a round of all ranks, as `of_round` returned them; returns their shares."""
        for mpi_rank, (idle, whole) in enumerate(by_rank):
            total = self._totals.setdefault(mpi_rank, [0.0, 0.0])
            total[0], total[1] = total[0] + idle, total[1] + whole
        return [_share(idle, whole) for idle, whole in by_rank]

    def shares(self) -> dict[int, float]:
        """Return MPI rank -> its idle share of all rounds in which there was such a rank."""
        return {mpi_rank: _share(*total) for mpi_rank, total in sorted(self._totals.items())}

    def state(self) -> list[list[float]]:
        """Return what `restore` takes."""
        return [[mpi_rank, *total] for mpi_rank, total in self._totals.items()]

    def restore(self, state: Iterable[Sequence[float]]) -> None:
        """Go on from what `state` returned."""
        self._totals = {int(mpi_rank): [idle, whole] for mpi_rank, idle, whole in state}


def _share(idle_seconds: float, seconds: float) -> float:
    return idle_seconds / seconds if seconds else 0.0


def idle_metrics(shares: Sequence[float]) -> list[dict[str, Any]]:
    """Return a round's metrics, one for each rank."""
    metric = {"name": "rank/idle_share", "unit": "share of the round"}
    return [{**metric, "mpi_rank": mpi_rank, "value": share} for mpi_rank, share in enumerate(shares)]
