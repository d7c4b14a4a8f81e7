"""What metrics.jsonl says, as curves: one for each name and each of model type, pair, group, MPI rank, ..."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heterotune.report.thinned_series import MAX_POINTS, ThinnedSeries

NOT_KEYS = ("round", "name", "value", "unit", "delta")
MAX_CURVES = 4000
"""Of one name; further ones are counted, and not drawn."""
FEW_POINTS = 48
TARGET_METRICS = {"loss": "loss/eval", "accuracy": "accuracy/eval", "exact_match": "exact_match/eval"}
"""Measure -> the metric that has it on held-out rows."""
VIRTUAL_SECONDS, ENERGY = "clock/seconds", "clock/energy"
_KEPT_WHOLE = frozenset({*TARGET_METRICS.values(), VIRTUAL_SECONDS, ENERGY})
_SHORT_FROM = 64  # curves of one name that are kept at full length
_MAX_LINE_BYTES = 1 << 20
_NAMED_LINES = 5
_TOO_LARGE = 1e300  # whole numbers in JSON have no limit

CurveKey = tuple[tuple[str, str], ...]
"""("model_type", "small"), ...: what tells the curves of one name apart."""


@dataclass
class Metrics:
    """The curves of one strategy.

    Attributes:
        curves: Name -> key -> curve, as it is drawn.
        whole: The same with every round, of the few names that tell when a target was reached and what was spent.
        units: Name -> unit.
        newest_round: The highest round that has a line.
        missing: What was left out and why, as sentences.
    """

    curves: dict[str, dict[CurveKey, ThinnedSeries]] = field(default_factory=dict)
    whole: dict[str, dict[CurveKey, ThinnedSeries]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    newest_round: int = 0
    missing: list[str] = field(default_factory=list)

    def by(self, name: str, field_name: str, *, whole: bool = False) -> dict[str, ThinnedSeries]:
        """Return the curves of a name that differ in one field only, by its value, e.g. model type -> loss."""
        return {
            key[0][1]: curve
            for key, curve in (self.whole if whole else self.curves).get(name, {}).items()
            if len(key) == 1 and key[0][0] == field_name
        }

    def one(self, name: str, *, whole: bool = False) -> ThinnedSeries | None:
        """Return the curve of a name that has no keys."""
        return (self.whole if whole else self.curves).get(name, {}).get(())

    def keyed(self, name: str, *field_names: str) -> Iterator[tuple[tuple[str, ...], ThinnedSeries]]:
        """Yield the values of some fields and the curve, for all curves of a name that have these fields."""
        for key, curve in self.curves.get(name, {}).items():
            values = dict(key)
            if all(each in values for each in field_names):
                yield tuple(values[each] for each in field_names), curve


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl line by line; lines that are damaged are left out and counted."""
    metrics, dropped = Metrics(), set()
    broken: list[int] = []
    for entry in _entries(path, broken.append):
        name, round_number = str(entry["name"]), entry["round"]
        curves = _curves(metrics, name, entry)
        if not curves:
            dropped.add(name)
        for curve in curves:
            curve.add(round_number, entry["value"])
        metrics.units.setdefault(name, str(entry.get("unit", "")))
        metrics.newest_round = max(metrics.newest_round, round_number)
    metrics.missing += _told(path.name, broken)
    metrics.missing += [f"{name}: more than {MAX_CURVES} curves; the others were left out." for name in sorted(dropped)]
    metrics.missing += _not_finite(metrics)
    return metrics


def _curves(metrics: Metrics, name: str, entry: Mapping[str, Any]) -> list[ThinnedSeries]:
    """Return the curve that a line belongs to, and the whole one if there is one; nothing if its name has too many."""
    mine = metrics.curves.setdefault(name, {})
    key = tuple((each, str(value)) for each, value in sorted(entry.items()) if each not in NOT_KEYS)
    if key not in mine:
        if len(mine) >= MAX_CURVES:
            return []
        mine[key] = ThinnedSeries(MAX_POINTS if len(mine) < _SHORT_FROM else FEW_POINTS)
    if name not in _KEPT_WHOLE:
        return [mine[key]]
    return [mine[key], metrics.whole.setdefault(name, {}).setdefault(key, ThinnedSeries(None))]


def _entries(path: Path, damaged: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the lines that are a metric; tell the numbers of the others."""
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(_MAX_LINE_BYTES), b"")
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if _is_metric(entry):
                yield entry
            else:
                damaged(number)


def _is_metric(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "value" not in entry:
        return False
    value, round_number = entry["value"], entry.get("round")
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
    return type(round_number) is int and round_number >= 0 and (value is None or is_number)


def _told(name: str, broken: list[int]) -> list[str]:
    if not broken:
        return []
    numbers = ", ".join(map(str, broken[:_NAMED_LINES]))
    more = f" and {len(broken) - _NAMED_LINES} more" if len(broken) > _NAMED_LINES else ""
    return [f"{name}: {len(broken)} damaged or cut line(s) left out: {numbers}{more}."]


def _not_finite(metrics: Metrics) -> list[str]:
    missing = {name: sum(each.num_missing for each in curves.values()) for name, curves in metrics.curves.items()}
    return [
        f"{name}: {count} value(s) were not finite (NaN or infinite) and are not drawn."
        for name, count in missing.items()
        if count
    ]
