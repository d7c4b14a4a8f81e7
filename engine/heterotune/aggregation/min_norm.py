"""The shortest vector in the convex hull of a few vectors, found from their dot products alone.

Wolfe's algorithm (1976): an active set that grows by the vector that points back most, and drops those whose weight
would become negative. It ends after finitely many steps, draws nothing, and gives the same bits wherever it runs.

Legend: M vectors.
"""

from __future__ import annotations

import numpy as np

_RELATIVE = 1e-12
"""Dot products that differ by less than this share of the longest vector's square are taken for equal."""


def shortest_in_hull(gram_MM: np.ndarray, start_M: np.ndarray | None = None) -> np.ndarray:
    """Return λ of the simplex that minimises |Σ λ_i v_i|², in closed form for two vectors.

    Args:
        gram_MM: The vectors' dot products, float64, symmetric and positive semidefinite up to rounding.
        start_M: The weights of a similar hull, from which it is not far; None = begin with the shortest vector.

    Returns:
        float64, shape (M,), at least 0, sums to 1. Where several are optimal, one of them.
    """
    if len(gram_MM) == 2:
        return _of_two(gram_MM)
    tolerance = _RELATIVE * float(gram_MM.diagonal().max())
    if start_M is None:
        active = [int(gram_MM.diagonal().argmin())]
        weights_M = np.zeros(len(gram_MM))
        weights_M[active] = 1.0
    else:
        weights_M, active = _settle(gram_MM, start_M, np.flatnonzero(start_M).tolist())
    for _ in range(10 * len(gram_MM) ** 2):
        dots_M = gram_MM @ weights_M
        nearest = int(dots_M.argmin())
        if nearest in active or dots_M[nearest] > weights_M @ dots_M - tolerance:
            break
        active.append(nearest)
        weights_M, active = _settle(gram_MM, weights_M, active)
    return weights_M / weights_M.sum()


def _of_two(gram_MM: np.ndarray) -> np.ndarray:
    """Return the point of the segment between two vectors that is nearest to 0."""
    squared_distance = gram_MM[0, 0] + gram_MM[1, 1] - 2.0 * gram_MM[0, 1]
    if squared_distance <= 0.0:
        return np.array([0.5, 0.5])
    first = min(max((gram_MM[1, 1] - gram_MM[0, 1]) / squared_distance, 0.0), 1.0)
    return np.array([first, 1.0 - first])


def _settle(gram_MM: np.ndarray, weights_M: np.ndarray, active: list[int]) -> tuple[np.ndarray, list[int]]:
    """Return the shortest combination of the active vectors, without those that it would weigh negatively."""
    while True:
        free = _shortest_in_span(gram_MM[np.ix_(active, active)])
        now = weights_M[active]
        if (free > 0.0).all():
            step, left = 1.0, active
        else:
            falling = free <= 0.0
            step = float((now[falling] / (now[falling] - free[falling])).min())
            moved = now + step * (free - now)
            moved[falling & (moved <= _RELATIVE)] = 0.0
            left = [index for index, weight in zip(active, moved, strict=True) if weight > 0.0]
        weights_M = np.zeros(len(gram_MM))
        weights_M[active] = np.maximum(now + step * (free - now), 0.0)
        weights_M[[index for index in active if index not in left]] = 0.0
        if left == active:
            return weights_M, active
        active = left


def _shortest_in_span(gram: np.ndarray) -> np.ndarray:
    """Return the weights, of any sign and of sum 1, of the shortest combination."""
    scale = max(float(gram.diagonal().max()), np.finfo(np.float64).tiny)
    system = np.block([[gram / scale, np.ones((len(gram), 1))], [np.ones((1, len(gram))), np.zeros((1, 1))]])
    return np.linalg.lstsq(system, np.append(np.zeros(len(gram)), 1.0), rcond=None)[0][:-1]
