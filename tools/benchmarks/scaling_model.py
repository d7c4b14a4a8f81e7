"""Fits the figures of a calibration to measured rounds, and predicts with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from scaling_points import POINTS, Point
from scipy.optimize import nnls

from heterotune.planning.calibration import A100, CPU_CORE, Calibration
from heterotune.planning.collecting import collect_seconds
from heterotune.planning.scaling import scaling_rows
from heterotune.planning.time_model import RoundTime, round_time

FITTED = (
    "layer_seconds",
    "chunk_seconds",
    "update_seconds",
    "combine_seconds",
    "take_seconds",
    "pack_seconds",
    "message_seconds",
    "round_seconds",
)
RATES = ("flops", "gather_bytes_per_second")
"""Figures of a calibration that are fitted; of a rate its inverse."""
COLLECTIVE_FITTED = frozenset({(64, 1), (16384, 1), (64, 2), (16384, 2)})
"""(kilobytes, ranks) of the collective parts that the model is fitted to."""
VALUES_OF_KILOBYTE = 256
_NOTHING = 1e-30
HOST_FIGURES = ("update_seconds", "combine_seconds", "take_seconds", "pack_seconds")

Predict = Callable[[Calibration], float]
Rounds = Mapping[tuple[str, int], Sequence[tuple[float, float]]]
"""(point, ranks) -> busy and wall seconds of each round."""
Collected = Mapping[tuple[int, str, int], Sequence[Mapping[str, float]]]
"""(kilobytes, topology, ranks) -> what `scaling_rank.py` measures of each turn."""


def fit(rounds: Rounds, collected: Collected) -> Calibration:
    """Return the calibration with the smallest squares of relative errors; no figure below zero."""
    cases = [*_round_cases(rounds), *_collective_cases(collected)]
    names = [*FITTED, *RATES]
    weighted = np.array([[predict(_only(name)) / seconds for name in names] for predict, seconds in cases])
    scale = np.linalg.norm(weighted, axis=0)
    found, _ = nnls(weighted / scale, np.ones(len(cases)))
    found /= scale
    return replace(
        _calibration(dict(zip(names, found, strict=True))), name="one CPU core, fitted to rounds measured here"
    )


def predicted_round(point: Point, num_ranks: int, calibration: Calibration) -> RoundTime:
    """Return what the plan's model says of what the busiest rank has to do in a point's round."""
    setting = point.setting(num_ranks, without_moving(calibration))
    return round_time(setting, setting.chunks_by_rank(dict.fromkeys(range(len(point.models)), point.chunk)))


def predicted_collect(topology: str, num_values: int, num_ranks: int, calibration: Calibration) -> float:
    """Return what the plan's model says of the way from sums to new values, for ranks that share this machine."""
    speed, cores = calibration.gather_bytes_per_second, os.cpu_count() or 1
    return collect_seconds(topology, num_values, num_ranks, calibration, speed, cores)


def without_moving(calibration: Calibration) -> Calibration:
    """Return a machine whose messages take no time."""
    return replace(calibration, message_seconds=0.0, gather_bytes_per_second=1 / _NOTHING)


def without_work(calibration: Calibration) -> Calibration:
    """Return a machine on which only messages take time."""
    return replace(calibration, combine_seconds=0.0, take_seconds=0.0, pack_seconds=0.0)


def prediction_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """Return what 8 to 1,024 ranks would need: cores as this one, and GPUs with what hosts do as measured here.

    Messages take what is assumed of a network: those between two ranks here say nothing of one.
    """
    calibration = replace(calibration, message_seconds=CPU_CORE.message_seconds)
    a100 = replace(A100, **{name: max(getattr(calibration, name), _NOTHING) for name in HOST_FIGURES})
    return [row for machine in (calibration, a100) for row in scaling_rows(machine)]


def _round_cases(rounds: Rounds) -> Iterator[tuple[Predict, float]]:
    for point in POINTS:
        for num_ranks in point.fitted_on:

            def predict(calibration: Calibration, point: Point = point, num_ranks: int = num_ranks) -> float:
                return predicted_round(point, num_ranks, calibration).seconds

            yield predict, median(busy for busy, _ in rounds[point.name, num_ranks])


def _collective_cases(collected: Collected) -> Iterator[tuple[Predict, float]]:
    for (kilobytes, topology, num_ranks), turns in collected.items():
        if (kilobytes, num_ranks) not in COLLECTIVE_FITTED:
            continue
        num_values = kilobytes * VALUES_OF_KILOBYTE

        def part(
            only: Callable[[Calibration], Calibration], name: str = topology, n: int = num_values, k: int = num_ranks
        ) -> Predict:
            return lambda calibration: collect_seconds(
                name, n, k, only(calibration), only(calibration).gather_bytes_per_second
            )

        yield lambda calibration, n=num_values: n * calibration.update_seconds, median(t["encode"] for t in turns)
        yield part(without_moving), median(t["work"] for t in turns)
        if num_ranks > 1:
            yield part(without_work), min(t["moving"] for t in turns)


def _only(name: str) -> Calibration:
    """Return a machine on which nothing takes time but one figure, which is 1."""
    return _calibration({name: 1.0})


def _calibration(figures: Mapping[str, float]) -> Calibration:
    """Return the CPU's calibration with these seconds, and nothing where none are given."""
    seconds = {name: max(figures.get(name, 0.0), _NOTHING) for name in (*FITTED, *RATES)}
    rates = {name: 1 / seconds.pop(name) for name in RATES}
    return replace(CPU_CORE, **seconds, **rates)
