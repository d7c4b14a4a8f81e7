"""Draws without replacement in proportion to weights, from many by proposals and from few by a look at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SCAN_AT_MOST = 4096
"""Out of so few a look at every one is faster than proposals."""
_LEAST_BLOCK = 64

Weights = Callable[[np.ndarray], np.ndarray]
"""Places, int64 -> weights from 0 to 1, float64; 0 = never."""


def draw_by_weight(num_members: int, weights_of: Weights, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draw distinct places one after the other, each in proportion to its weight among those that are left.

    A place is proposed with equal chances and taken with its weight as the probability, which costs as many proposals
    as are drawn, over the mean weight, whatever the number of members. Where that is many, because hardly any place has
    a weight, or because most are drawn already, the rest is drawn from a look at all.

    Args:
        num_members: Places are 0 to this, without it.
        weights_of: What each place weighs; asked for some places at a time.
        count: How many to draw.
        draw: Where chance comes from.

    Returns:
        Places in the order in which they were drawn; fewer than `count` if fewer have a weight.
    """
    taken: dict[int, None] = {}
    num_proposals = 0 if num_members <= SCAN_AT_MOST else num_members
    while num_proposals > 0 and len(taken) < count:
        block = min(num_proposals, max(_LEAST_BLOCK, 2 * (count - len(taken))))
        places = draw.integers(num_members, size=block)
        accepted = places[draw.random(block) < weights_of(places)]
        for place in accepted.tolist():
            if len(taken) < count:
                taken[place] = None
        num_proposals -= block
    drawn = np.fromiter(taken, dtype=np.int64, count=len(taken))
    if len(drawn) == count:
        return drawn
    left = np.setdiff1d(np.arange(num_members), drawn)
    return np.concatenate([drawn, left[pick_by_weight(weights_of(left), count - len(drawn), draw)]])


def pick_by_weight(weights: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draw distinct places of an array in proportion to its values; fewer than `count` if fewer are above 0.

    The order of exponential waiting times with these rates is that of draws without replacement (Efraimidis and
    Spirakis, 2006).

    Args:
        weights: At least 0, float64.
        count: How many to draw.
        draw: Where chance comes from.
    """
    waits = draw.exponential(size=len(weights))
    alive = np.flatnonzero(weights > 0.0)
    order = np.argsort(waits[alive] / weights[alive], kind="stable")
    return alive[order[:count]]
