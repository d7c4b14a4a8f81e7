"""Statistics of paired runs: two methods with the same seeds, and how sure their mean difference is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

CONFIDENCE = 0.95


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; no number where there are too few values."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def paired(mine: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, float]:
    """Return the mean difference over the seeds that both have, and half the width of its 95 % confidence interval.

    Student's t for paired samples, as `scipy.stats.ttest_rel(...).confidence_interval()` has it; the half width is no
    number with fewer than two seeds in common.
    """
    differences = [mine[seed] - others[seed] for seed in sorted(mine.keys() & others.keys())]
    mean, deviation = spread(differences)
    if len(differences) < 2:
        return mean, math.nan
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    return mean, quantile * deviation / math.sqrt(len(differences))
