"""The cosines between model types' updates that a run recorded, and what a slider shows of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from heterotune.report.run_record import StrategyRecord
from heterotune.report.thinned_series import ThinnedSeries

BEFORE, AFTER = "before CMGA", "after CMGA"
_METRICS = {BEFORE: "cmga/cosine", AFTER: "cmga/cosine_after"}
_ALL_GROUPS, _ALL_ROUNDS = "all groups", "mean of all rounds"
_MOST_FRAMES, _MOST_FRAME_VALUES = 40, 40_000
_FAINTEST_SCALE = 0.05  # cosines that are all smaller than this shall look small

Pair = tuple[str, str]
Curves = Mapping[tuple[str, Pair], ThinnedSeries]
"""(tensor group, pair of model types) -> cosine over rounds."""


@dataclass(frozen=True)
class Cosines:
    """One strategy's cosines.

    Attributes:
        strategy: Its name.
        model_types: Those that share something, in the fleet's order.
        stages: "before CMGA" and, where it was recorded, "after CMGA" -> its curves.
    """

    strategy: str
    model_types: Sequence[str]
    stages: Mapping[str, Curves]

    @property
    def pairs(self) -> list[Pair]:
        """Pairs that have a cosine, in the order of the matrix."""
        found = {pair for curves in self.stages.values() for _, pair in curves}
        return [(a, b) for i, a in enumerate(self.model_types) for b in self.model_types[i + 1 :] if (a, b) in found]

    @property
    def groups(self) -> list[str]:
        """Tensor groups, as the run named them first."""
        return list(dict.fromkeys(group for curves in self.stages.values() for group, _ in curves))


def read_cosines(strategy: StrategyRecord, model_types: Sequence[str]) -> Cosines | None:
    """Return what a strategy recorded; None if there is no cosine.

    Args:
        strategy: Which.
        model_types: The fleet's, in its order.
    """
    stages = {}
    for stage, name in _METRICS.items():
        curves = {
            (group, in_fleet_order(pair, model_types)): curve
            for (group, pair), curve in strategy.metrics.keyed(name, "group", "pair")
            if curve.num_values
        }
        if curves:
            stages[stage] = curves
    if not stages:
        return None
    seen = {name for curves in stages.values() for _, pair in curves for name in pair}
    ordered = [name for name in (*model_types, *sorted(seen - {*model_types})) if name in seen]
    cosines = Cosines(strategy.name, ordered, stages)
    return cosines if cosines.pairs else None


def in_fleet_order(text: str, model_types: Sequence[str]) -> Pair:
    """Return the two model types of `a:b`, the one that the fleet names first in front."""
    a, _, b = text.partition(":")
    order = {name: place for place, name in enumerate(model_types)}
    first, second = sorted((a, b), key=lambda name: (order.get(name, len(order)), name))
    return first, second


def mean_of_pairs(curves: Curves) -> dict[Pair, float]:
    """Return the mean over rounds and tensor groups."""
    values: dict[Pair, list[float]] = defaultdict(list)
    for (_, pair), curve in curves.items():
        if curve.mean is not None:
            values[pair].append(curve.mean)
    return {pair: fmean(found) for pair, found in values.items()}


def mean_over_groups(curves: Sequence[ThinnedSeries]) -> list[tuple[float, float]]:
    """Return (round, mean) of one pair's curves."""
    values: dict[float, list[float]] = defaultdict(list)
    for curve in curves:
        for x, value in curve.points():
            values[x].append(value)
    return [(x, fmean(found)) for x, found in sorted(values.items())]


def slider_frames(cosines: Cosines) -> dict[str, object]:
    """Return what the slider shows: for a tensor group and each stage, a value for each frame and pair.

    Also `scale`: the cosine of the strongest colour. A long run's frames are means of several rounds.
    """
    rounds = [x for curves in cosines.stages.values() for curve in curves.values() for x, _ in curve.points()]
    first, last = int(min(rounds)), int(max(rounds))
    num_pairs = len(cosines.pairs) * len(cosines.stages)
    num_frames = max(1, min(last - first + 1, _MOST_FRAMES, _MOST_FRAME_VALUES // num_pairs))
    groups = cosines.groups if num_frames * num_pairs * len(cosines.groups) <= _MOST_FRAME_VALUES else []
    places = {name: place for place, name in enumerate(cosines.model_types)}
    edges = [first + (last - first + 1) * place // num_frames for place in range(num_frames + 1)]
    names = [f"round {a}" if b - a <= 1 else f"rounds {a} to {b - 1}" for a, b in zip(edges, edges[1:], strict=False)]
    shown = {name: _frames_of(cosines, name, edges) for name in (_ALL_GROUPS, *groups)}
    pairs = [(places[a], places[b]) for a, b in cosines.pairs]
    values = [value for stages in shown.values() for frames in stages.values() for frame in frames for value in frame]
    scale = max([_FAINTEST_SCALE, *(abs(value) for value in values if value is not None)])
    return {"labels": [_ALL_ROUNDS, *names], "pairs": pairs, "groups": shown, "scale": min(1.0, scale)}


def _frames_of(cosines: Cosines, group: str, edges: Sequence[int]) -> dict[str, list[list[float | None]]]:
    frames = {}
    for stage, curves in cosines.stages.items():
        mine = {key: curve for key, curve in curves.items() if group in (_ALL_GROUPS, key[0])}
        whole = mean_of_pairs(mine)
        binned: dict[tuple[int, Pair], list[float]] = defaultdict(list)
        for (_, pair), curve in mine.items():
            for x, value in curve.points():
                binned[bisect_right(edges, x) - 1, pair].append(value)
        means = [[_rounded(binned.get((place, pair))) for pair in cosines.pairs] for place in range(len(edges) - 1)]
        first = [_rounded([whole[pair]] if pair in whole else None) for pair in cosines.pairs]
        frames["before" if stage == BEFORE else "after"] = [first, *means]
    return frames


def _rounded(values: Sequence[float] | None) -> float | None:
    return round(fmean(values), 3) if values else None
