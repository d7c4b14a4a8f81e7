"""The forms of CMGA: from the dot products of the model types' updates to each one's share in the result.

Every form is a combination of the updates, so that no form needs a vector: whatever the size of the models, and
whoever holds which slice of them, M² numbers are enough. All arithmetic is float64, in a fixed order and with a fixed
number of steps; nothing is drawn. An update that is zero is no task: it has its weight in the mean, and no say.

Sources: PCGrad (Yu et al., 2020), CAGrad (Liu et al., 2021), MGDA (Désidéri, 2012; Sener and Koltun, 2018), GradVac
(Wang et al., 2021), Aligned-MTL (Senushkin et al., 2023). Differ: tasks are model types (or clients) with weights, and
their updates stand for negative gradients.

Legend: M updates, g_i the i-th, w_i its weight, mean = Σ w_i g_i.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from heterotune.aggregation.gram import Gram
from heterotune.aggregation.min_norm import shortest_in_hull

EPSILON = 2.0**-160
"""Keeps a division defined. Updates are multiples of 2^-50: a squared norm is 0 or at least 2^-100, and not changed."""

_BISECTIONS = 45
_SHORTEST = 1e-6
"""In norms of the longest update. A shorter combination is made of digits that its dot products do not have."""
_LARGEST_TARGET = 1.0 - 1e-6
_SMALLEST_EIGENVALUE = 1e-10
"""As a share of the largest; below it a direction of the updates is taken for rounding error."""


@dataclass(frozen=True)
class Direction:
    """What a form makes of M updates.

    Attributes:
        shares: What of each original update is in the result.
        parts: For each update, what of each original is in that which became of it; None where a form does not change
            updates and only weighs them anew.
        targets: What gradvac keeps for the next round, M × M.
    """

    shares: list[float]
    parts: list[list[float]] | None = None
    targets: Gram | None = None


Form = Callable[[Gram, list[float], Gram | None], Direction]
"""(dot products, weights, what it kept of the last round) -> direction. A direction whose shares are the weights is the
plain weighted mean."""


def projected(gram: Gram, weights: list[float], kept: Gram | None = None) -> Direction:
    """Take from each update what points against another original (PCGrad, in a fixed order), then add by weight.

    With two updates none is hurt; with more there is no such guarantee. Without a conflict it is the weighted mean.
    """
    if not has_conflict(gram):
        return Direction(weights, _identity(len(gram)))
    parts = [_without_conflicts(gram, i) for i in range(len(gram))]
    return Direction(_weighted(parts, weights), parts)


def has_conflict(gram: Gram) -> bool:
    """Return whether any two updates point against each other."""
    return any(gram[i][j] < 0.0 for i in range(len(gram)) for j in range(i))


def _without_conflicts(gram: Gram, i: int) -> list[float]:
    """Return what of each original is in update i after its conflicts are projected away.

    Every projected update is a combination of the originals: its dot products follow from `gram`, no vector is needed.
    """
    parts = [1.0 if k == i else 0.0 for k in range(len(gram))]
    for j in range(len(gram)):
        dot = math.fsum(parts[k] * gram[k][j] for k in range(len(gram)))
        if j != i and dot < 0.0:
            parts[j] -= dot / (gram[j][j] + EPSILON)
    return parts


def vaccinated(gram: Gram, weights: list[float], kept: Gram | None = None, *, beta: float) -> Direction:
    """Turn each update toward another where their cosine is below what it was in earlier rounds (GradVac).

    The target of a pair begins at 0, so the first round is `projected`, and follows the cosines that were seen with the
    decay 1 - beta, whether it was reached or not.
    """
    targets = [list(row) for row in kept] if kept is not None else [[0.0] * len(gram) for _ in gram]
    parts = [_turned(gram, i, targets[i], beta) for i in range(len(gram))]
    is_untouched = parts == _identity(len(gram))
    return Direction(weights if is_untouched else _weighted(parts, weights), parts, targets)


def _turned(gram: Gram, i: int, targets: list[float], beta: float) -> list[float]:
    """Return what of each original is in update i after it was turned; the targets of its pairs follow, in place."""
    matrix = np.array(gram)
    parts = np.eye(len(gram))[i]
    for j in range(len(gram)):
        norm_i, norm_j = math.sqrt(max(float(parts @ matrix @ parts), 0.0)), math.sqrt(gram[j][j])
        if j == i or norm_i * norm_j == 0.0:
            continue
        cosine = min(max(float(parts @ matrix[j]) / (norm_i * norm_j), -1.0), 1.0)
        target = min(targets[j], _LARGEST_TARGET)
        if cosine < target:
            sine, other = math.sqrt(1.0 - cosine**2), math.sqrt(1.0 - target**2)
            parts[j] += norm_i * (target * sine - cosine * other) / (norm_j * other)
        targets[j] = (1.0 - beta) * targets[j] + beta * cosine
    return parts.tolist()


def conflict_averse(gram: Gram, weights: list[float], kept: Gram | None = None, *, radius: float) -> Direction:
    """Improve the worst-served update as far as a ball around the mean lets one (CAGrad).

    The result is the d that maximises min <g_i, d> under |d - mean| <= radius |mean|: mean + radius |mean| u / |u|,
    where u = Σ λ_i g_i minimises <u, mean> + radius |mean| |u| over the simplex. radius = 0 gives the mean.
    """
    matrix, moved = _moved(gram)
    reach = radius * math.sqrt(max(float(np.array(weights) @ np.array(gram) @ np.array(weights)), 0.0))
    if reach == 0.0 or not moved:
        return Direction(weights)
    to_mean_M = (np.array(gram) @ np.array(weights))[moved]
    lambda_M = _averse_weights(matrix, to_mean_M, reach**2 / radius**2, reach)
    norm = math.sqrt(max(float(lambda_M @ matrix @ lambda_M), 0.0))
    if norm <= _SHORTEST * math.sqrt(float(matrix.diagonal().max())):  # no direction serves all, as far as can be told
        return Direction(weights)
    shares = list(weights)
    for place, index in enumerate(moved):
        shares[index] += reach / norm * float(lambda_M[place])
    return Direction(shares)


def _averse_weights(gram_MM: np.ndarray, to_mean_M: np.ndarray, mean_square: float, reach: float) -> np.ndarray:
    """Return λ of the simplex that minimises <u, mean> + reach |u|, u = Σ λ_i g_i.

    |u| is the least (|u|² / s + s) / 2 over s > 0. For a given s what is left is the shortest vector in the hull of
    g_i + (s / reach) mean; and s is the norm where the derivative by s is 0: it falls below s from there on.
    """
    low, high = 0.0, math.sqrt(float(gram_MM.diagonal().max()))
    lambda_M = None
    for _ in range(_BISECTIONS):
        norm = 0.5 * (low + high)
        shift = norm / reach
        shifted_MM = gram_MM + shift * (to_mean_M[:, None] + to_mean_M[None, :]) + shift**2 * mean_square
        lambda_M = shortest_in_hull(shifted_MM, lambda_M)
        if float(lambda_M @ gram_MM @ lambda_M) < norm**2:
            high = norm
        else:
            low = norm
    assert lambda_M is not None
    return lambda_M


def common_descent(gram: Gram, weights: list[float], kept: Gram | None = None) -> Direction:
    """Return the shortest combination d of the updates (MGDA): <d, g_i> >= |d|² for all; the weights have no say."""
    matrix, moved = _moved(gram)
    if not moved:
        return Direction(weights)
    shares = [0.0] * len(gram)
    for index, share in zip(moved, shortest_in_hull(matrix).tolist() if len(moved) > 1 else [1.0], strict=True):
        shares[index] = share
    return Direction(shares)


def aligned(gram: Gram, weights: list[float], kept: Gram | None = None) -> Direction:
    """Make the updates orthogonal and of one length, that of their weakest direction (Aligned-MTL), then add by weight.

    With the eigenvalues and -vectors of the dot products, g'_i = Σ_j B_ij g_j, B = sqrt(least) V Λ^-1/2 V^T. Directions
    that are rounding error are left out; those that stay get a length of their own.
    """
    matrix, moved = _moved(gram)
    if not moved:
        return Direction(weights)
    values_M, vectors_MM = np.linalg.eigh(matrix / matrix.diagonal().max())
    is_kept = values_M > _SMALLEST_EIGENVALUE * values_M[-1]
    factors = np.sqrt(values_M[is_kept].min() / values_M[is_kept])
    balance_MM = (vectors_MM[:, is_kept] * factors) @ vectors_MM[:, is_kept].T
    whole_MM = np.zeros((len(gram), len(gram)))
    whole_MM[np.ix_(moved, moved)] = balance_MM
    parts = whole_MM.tolist()
    return Direction(_weighted(parts, weights), parts)


def agreeing(gram: Gram, weights: list[float], kept: Gram | None = None, *, power: float) -> Direction:
    """Weigh each update by w_i max(0, cos(g_i, mean))^power; no guarantee, and no update is changed."""
    matrix, given = np.array(gram), np.array(weights)
    mean_norm = math.sqrt(max(float(given @ matrix @ given), 0.0))
    norms = np.sqrt(matrix.diagonal())
    cosines = np.divide(matrix @ given, norms * mean_norm, out=np.zeros(len(gram)), where=norms * mean_norm > 0.0)
    found = np.where(cosines > 0.0, given * np.clip(cosines, 0.0, 1.0) ** power, 0.0)
    return Direction((found / found.sum()).tolist() if found.sum() > 0.0 else weights)


def _moved(gram: Gram) -> tuple[np.ndarray, list[int]]:
    """Return the dot products of those updates that are not zero, and which these are."""
    moved = [index for index in range(len(gram)) if gram[index][index] > 0.0]
    return np.array(gram)[np.ix_(moved, moved)], moved


def _weighted(parts: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Return what of each original is in the weighted sum of what became of the updates."""
    shares = [0.0 for _ in weights]
    for row, weight in zip(parts, weights, strict=True):
        for k, part in enumerate(row):
            shares[k] += weight * part
    return shares


def _identity(size: int) -> list[list[float]]:
    return [[1.0 if i == k else 0.0 for k in range(size)] for i in range(size)]
