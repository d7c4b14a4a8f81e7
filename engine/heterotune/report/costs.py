"""What a federation had spent by a round, in the world that is simulated: virtual time, energy, bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heterotune.report.metric_record import ENERGY, VIRTUAL_SECONDS
from heterotune.report.quantities import format_bytes, format_energy, format_seconds
from heterotune.report.run_record import StrategyRecord

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Cost:
    """Something that all clients of a fleet spend together.

    Attributes:
        name: In JSON.
        title: In tables.
        metric: The metric that has it, summed up by round; "" = the ledger.
        written: Writes an amount.
    """

    name: str
    title: str
    metric: str
    written: Callable[[float], str]


def _written_seconds(seconds: float) -> str:
    """Write a virtual time, which may be far below a second where devices are fast and models small."""
    return f"{seconds:.3g} s" if seconds < 60 else format_seconds(seconds)


SECONDS = Cost("virtual_seconds", "virtual time", VIRTUAL_SECONDS, _written_seconds)
JOULES = Cost("energy_joules", "energy", ENERGY, format_energy)
BYTES = Cost("bytes", "bytes", "", format_bytes)
COSTS = (SECONDS, JOULES, BYTES)


def has_clock(strategies: Sequence[StrategyRecord]) -> bool:
    """Return whether virtual time passed in some run."""
    return any(strategy.metrics.one(SECONDS.metric) is not None for strategy in strategies)


def spent(strategy: StrategyRecord, cost: Cost) -> Curve:
    """Return (round, what all clients had spent when it ended) of every round; nothing if it was not counted."""
    if cost.metric:
        curve = strategy.metrics.one(cost.metric, whole=True)
        points = curve.points() if curve is not None else []
    else:
        points = strategy.ledger.cumulative()
    return points if points and points[-1][1] > 0 else []


def by_cost(strategy: StrategyRecord, cost: Cost, curve: Sequence[tuple[float, float]]) -> Curve:
    """Return a curve over rounds as a curve over what was spent by then; nothing if that was not counted."""
    amounts = spent(strategy, cost)
    rounds = [round_number for round_number, _ in amounts]
    return [(_until(rounds, amounts, round_number), value) for round_number, value in curve] if amounts else []


def _until(rounds: Sequence[float], amounts: Curve, round_number: float) -> float:
    """Return what was spent by the end of a round; 0 before the first."""
    place = bisect_right(rounds, round_number)
    return amounts[place - 1][1] if place else 0.0
