"""Guided selection: clients that were useful and fast, and some that nobody knows yet.

Source: Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection" (OSDI 2021), equation 1 and
algorithm 1. Where the paper leaves a scale open we follow the authors' program: statistical utilities are clipped at a
percentile and scaled to 0..1 before the bonus for staleness is added, and the preferred duration is a percentile of the
known durations. Differs: a model type chooses among its own clients, because losses of models of different size are not
comparable; a step's batch stands for a sample; the pacer looks once a window and only relaxes; unknown clients are
explored alike, not by speed; a client that was interrupted or late stays unknown; the exploration share falls with the
rounds whether anybody is left to explore or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterotune.config.cohort_options import OortOptions
from heterotune.fleet.client_records import statistical_utilities
from heterotune.fleet.weighted_draw import pick_by_weight

_LEAST_RANGE = 1e-4
"""Utilities that are all the same have no range to divide by."""
_LEAST_WORTH = 1e-300
"""Of who is worth nothing, but admitted if nobody else is there; a waiting time over it is still finite."""


def num_exploited(count: int, options: OortOptions, round_number: int) -> int:
    """Return how many of a model type's clients in a round should be known ones."""
    return int(count * (1.0 - exploration_share(options, round_number)))


def exploration_share(options: OortOptions, round_number: int) -> float:
    """Return the share of a round's clients that should be unknown ones."""
    falling = options.exploration * options.exploration_decay ** (round_number - 1)
    return max(falling, min(options.least_exploration, options.exploration))


def preferred_percentile(utilities: Sequence[float], options: OortOptions) -> float:
    """Return the pacer's percentile of durations: raised after every window in which the cohorts' utility fell.

    Args:
        utilities: Sum of the statistical utilities that each round so far brought.
        options: Where it begins, how far it is raised, and how long a window is.
    """
    window, percentile = options.pacer_rounds, options.preferred_percentile
    for end in range(2 * window, len(utilities) + 1, window):
        before, now = sum(utilities[end - 2 * window : end - window]), sum(utilities[end - window : end])
        if before > now:
            percentile = min(100.0, percentile + options.pacer_percent)
    return percentile


def preferred_seconds(records: np.ndarray, utilities: Sequence[float], options: OortOptions) -> float:
    """Return T, the longest duration that costs no utility; infinite where no duration is known."""
    known = records["seconds"][records["seconds"] > 0.0]
    return float(np.percentile(known, preferred_percentile(utilities, options))) if len(known) else float("inf")


def oort_utilities(
    records: np.ndarray, options: OortOptions, *, preferred_seconds: float, round_number: int
) -> np.ndarray:
    """Return what each known client is worth in a round: (U + bonus for staleness) * (T / t)^penalty where t > T.

    Args:
        records: Of dtype RECORD, at least one.
        options: Clipping, weights, exponents.
        preferred_seconds: T.
        round_number: The round to choose for, R.

    Returns:
        float64, in the order of the records.
    """
    raw = statistical_utilities(records)
    clipped = np.minimum(raw, np.percentile(raw, options.clip_percentile))
    scaled = (clipped - clipped.min()) / max(float(np.ptp(clipped)), _LEAST_RANGE)
    worth = scaled + np.sqrt(options.staleness * np.log(round_number) / records["last_round"])
    is_slow = records["seconds"] > preferred_seconds
    worth[is_slow] *= (preferred_seconds / records["seconds"][is_slow]) ** options.penalty
    return worth


def exploit(worth: np.ndarray, count: int, options: OortOptions, draw: np.random.Generator) -> np.ndarray:
    """Choose known clients: those near or above the utility of the last that would be admitted, by their utility.

    Args:
        worth: Their utilities, float64.
        count: How many to choose, at most all.
        options: The share of the last one's utility that suffices.
        draw: Where chance comes from.

    Returns:
        Places in `worth`.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    last_admitted = np.sort(worth)[::-1][count - 1]
    admitted = np.flatnonzero(worth >= options.cut_off * last_admitted)
    return admitted[pick_by_weight(np.maximum(worth[admitted], _LEAST_WORTH), count, draw)]
