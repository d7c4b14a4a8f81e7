"""What it took to reach a loss or an accuracy: rounds, virtual time, energy, bytes, of several runs side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heterotune.errors import ConfigError
from heterotune.report.costs import COSTS, Cost, by_cost
from heterotune.report.metric_record import TARGET_METRICS
from heterotune.report.page import Table
from heterotune.report.plots.learning import ALL_TYPES, curve_points
from heterotune.report.quantities import format_number
from heterotune.report.run_record import StrategyRecord

_WAYS = (0.5, 0.9, 1.0)
"""Without a target that is asked for: shares of the way from the first loss to the best that every run reaches."""
_DECIMALS = 3

Contestants = Mapping[str, Sequence[StrategyRecord]]
"""Label -> the runs that count; they differ only in their seed."""


@dataclass(frozen=True)
class Target:
    """What is to be reached on held-out rows.

    Attributes:
        measure: A key of `TARGET_METRICS`.
        value: At most this loss, at least this share.
    """

    measure: str
    value: float

    def __str__(self) -> str:
        if self.measure == "loss":
            return f"loss ≤ {self.value:g}"
        return f"{self.measure.replace('_', ' ')} ≥ {100 * self.value:g} %"

    def is_reached_by(self, value: float) -> bool:
        """Return whether a value is good enough."""
        return value <= self.value if self.measure == "loss" else value >= self.value


@dataclass(frozen=True)
class Reached:
    """What the runs of one contestant took to reach a target, each until its first evaluated round that did.

    Attributes:
        num_runs: That count.
        rounds: Of each run that reached it.
        amounts: Name of a cost -> of each run that reached it and counted it.
    """

    num_runs: int
    rounds: Sequence[float]
    amounts: Mapping[str, Sequence[float]]

    def mean(self, cost: Cost) -> float | None:
        """Return the mean over the runs that reached it; None if there is none."""
        found = self.amounts[cost.name]
        return statistics.fmean(found) if found else None


def parse_targets(texts: Sequence[str]) -> list[Target]:
    """Read `loss=2.5`, `accuracy=0.6`.

    Raises:
        ConfigError: With every text that is no target.
    """
    targets, problems = [], []
    for text in texts:
        measure, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if measure not in TARGET_METRICS or not math.isfinite(value):
            way_out = f"Write one of {', '.join(TARGET_METRICS)}, =, and a number; e.g. loss=2.5 or accuracy=0.6."
            problems.append(f"--target {text} is no target. {way_out}")
        targets.append(Target(measure, value))
    if problems:
        raise ConfigError(problems)
    return targets


def default_targets(contestants: Contestants) -> list[Target]:
    """Return losses on the way from where all runs begin to the best loss that every run reaches."""
    found = [_evaluations(each, "loss", ALL_TYPES) for runs in contestants.values() for each in runs]
    curves = [curve for curve in found if curve]
    if not curves:
        return []
    start = max(curve[0][1] for curve in curves)
    best = max(min(loss for _, loss in curve) for curve in curves)
    steps = 10**_DECIMALS
    values = [math.ceil((start + way * (best - start)) * steps) / steps for way in _WAYS if best < start]
    return [Target("loss", value) for value in dict.fromkeys(values)]


def reached(runs: Sequence[StrategyRecord], target: Target, model_type: str) -> Reached:
    """Return what runs that differ in their seed took to reach a target, for a model type or for all together."""
    rounds: list[float] = []
    amounts: dict[str, list[float]] = {cost.name: [] for cost in COSTS}
    for run in runs:
        curve = _evaluations(run, target.measure, model_type)
        first = next((point for point in curve if target.is_reached_by(point[1])), None)
        if first is not None:
            rounds.append(first[0])
            for cost in COSTS:
                amounts[cost.name] += [amount for amount, _ in by_cost(run, cost, [first])]
    return Reached(len(runs), rounds, amounts)


def _evaluations(run: StrategyRecord, measure: str, model_type: str) -> list[tuple[float, float]]:
    """Return (round, value) of every evaluation."""
    return curve_points(run, TARGET_METRICS[measure], model_type, whole=True)


def target_table(contestants: Contestants, targets: Sequence[Target], model_type: str) -> Table | None:
    """Return what every contestant took to reach every target; beside it, as a multiple of the first's."""
    found = {
        (target, label): reached(runs, target, model_type) for target in targets for label, runs in contestants.items()
    }
    shown = [cost for cost in COSTS if any(each.amounts[cost.name] for each in found.values())]
    rows = [
        [str(target), label, *_cells(each, found[target, next(iter(contestants))], shown)]
        for (target, label), each in found.items()
    ]
    heads = ("target", "strategy", "runs", "rounds", *(cost.title for cost in shown))
    told = f"Until a target was reached, {model_type}: what the whole fleet had spent; × = of the first line's"
    return Table(told, heads, rows, num_words=2) if any(each.rounds for each in found.values()) else None


def _cells(mine: Reached, first: Reached, shown: Sequence[Cost]) -> Iterator[str]:
    """Yield how many runs reached a target, and what they took."""
    yield f"{len(mine.rounds)} of {mine.num_runs}"
    yield format_number(statistics.fmean(mine.rounds) if mine.rounds else None, 1)
    for cost in shown:
        amount, other = mine.mean(cost), first.mean(cost)
        ratio = f" (× {amount / other:.2f})" if mine is not first and amount is not None and other else ""
        yield "-" if amount is None else f"{cost.written(amount)}{ratio}"


def target_tables(contestants: Contestants, targets: Sequence[Target], model_types: Sequence[str]) -> list[Table]:
    """Return the tables of a page: of all model types together and, folded, of each."""
    names = [ALL_TYPES, *model_types] if len(model_types) > 1 else [ALL_TYPES]
    tables = [target_table(contestants, targets, name) for name in names]
    return [replace(table, is_folded=place > 0) for place, table in enumerate(tables) if table is not None]


def targets_record(
    contestants: Contestants, targets: Sequence[Target], model_types: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the same for JSON, for all model types together and for each."""
    return [
        {
            "measure": target.measure,
            "value": target.value,
            "model_type": model_type,
            "groups": [
                {
                    "label": label,
                    "num_runs": each.num_runs,
                    "num_reached": len(each.rounds),
                    "rounds": statistics.fmean(each.rounds) if each.rounds else None,
                    **{cost.name: each.mean(cost) for cost in COSTS},
                }
                for label, runs in contestants.items()
                for each in [reached(runs, target, model_type)]
            ],
        }
        for target in targets
        for model_type in model_types
    ]
