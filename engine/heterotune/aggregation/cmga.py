"""CMGA, cross-model gradient alignment: how the updates of several model types become one.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's own algorithm was not readable to us.

Shape letters: M model types, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.aggregation.exact import blocked_dot
from heterotune.errors import AggregationError

EPSILON = 2.0**-160
"""Keeps a division defined. Updates are multiples of 2^-50: a squared norm is 0 or at least 2^-100, and not changed."""
CANCELLED = 1e-6
"""Below this share of the plain mean's norm what projection leaves may be rounding error, and it is not scaled up."""


@dataclass(frozen=True)
class CmgaDiagnostics:
    """What CMGA saw and did in one round and group."""

    cosine_MM: Tensor
    """Cosines between the types' updates, float64, shape (M, M); 0 where a type did not move."""
    num_conflicts: int
    """Pairs of types whose updates point against each other, of M (M - 1) / 2."""
    norm_ratio: float
    """Norm of the projected mean, before any rescaling, over that of the plain mean; 1 where the plain mean is 0."""
    min_alignment: float
    """The smallest dot product of the result with a type's own update; below 0 some type is hurt (to first order)."""


def align(
    update_MP: Tensor, *, weight_M: Tensor, rescale: bool, model_types: Sequence[str] = ()
) -> tuple[Tensor, CmgaDiagnostics]:
    """Turn the model types' updates toward one another and combine them (pairwise projection).

    Type i's update loses, for each other type j in row order, its part against j's original update where the two
    conflict. Without a conflict the result is the weighted mean, bit for bit. With two types no type is hurt; with more
    there is no such guarantee.

    Args:
        update_MP: One row per model type in the round, after minus before, float64, on one device. Not changed.
        weight_M: Each type's share of the cohort's tokens; float64, sums to 1.
        rescale: Keep the norm of the plain weighted mean where there was a conflict.
        model_types: Names of the rows, for messages.

    Returns:
        The combined update, shape (P,), float64, a new tensor; and what to log.

    Raises:
        AggregationError: If a row is not finite; says which model type.

    Source: projection as in PCGrad (Yu et al., 2020). Differs: fixed order, weighted, on aggregated updates, rescaled.
    """
    assert update_MP.dtype == torch.float64 and update_MP.ndim == 2
    assert len(weight_M) == len(update_MP) > 0 and math.isclose(float(weight_M.sum()), 1.0, rel_tol=1e-9)
    _check_finite(update_MP, model_types)
    gram = _gram(update_MP)
    weights = weight_M.tolist()
    mean_P = _combine(update_MP, weights)
    num_conflicts = sum(gram[i][j] < 0.0 for i in range(len(gram)) for j in range(i))
    if num_conflicts == 0:
        return mean_P, _diagnose(update_MP, mean_P, gram, num_conflicts, norm_ratio=1.0)
    combined_P = _combine(update_MP, _projected_shares(gram, weights))
    mean_norm, norm = _norm(mean_P), _norm(combined_P)
    if rescale and norm > CANCELLED * mean_norm:
        combined_P *= mean_norm / norm
    norm_ratio = norm / mean_norm if mean_norm > 0.0 else 1.0
    return combined_P, _diagnose(update_MP, combined_P, gram, num_conflicts, norm_ratio)


def _check_finite(update_MP: Tensor, model_types: Sequence[str]) -> None:
    """Refuse a row with NaN or infinity."""
    for row, is_finite in enumerate(torch.isfinite(update_MP).all(dim=1).tolist()):
        if not is_finite:
            name = f" ({model_types[row]})" if model_types else ""
            raise AggregationError(f"CMGA: the update of model type {row}{name} is not finite")


def _gram(update_MP: Tensor) -> list[list[float]]:
    """Return all dot products between rows, (M, M)."""
    num_types = len(update_MP)
    gram = [[0.0] * num_types for _ in range(num_types)]
    for i in range(num_types):
        for j in range(i + 1):
            gram[i][j] = gram[j][i] = blocked_dot(update_MP[i], update_MP[j])
    return gram


def _projected_shares(gram: list[list[float]], weights: list[float]) -> list[float]:
    """Return what share of each original update the projected weighted mean has.

    Every projected update is a combination of the originals: its dot products follow from `gram`, no vector is needed.
    """
    types = range(len(gram))
    shares = [0.0 for _ in types]
    for i in types:
        parts = [1.0 if k == i else 0.0 for k in types]
        for j in types:
            dot = math.fsum(parts[k] * gram[k][j] for k in types)
            if j != i and dot < 0.0:
                parts[j] -= dot / (gram[j][j] + EPSILON)
        for k in types:
            shares[k] += weights[i] * parts[k]
    return shares


def _combine(update_MP: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the sum of share * update in row order."""
    combined_P = update_MP[0] * shares[0]
    for update_P, share in zip(update_MP[1:], shares[1:], strict=True):
        combined_P += update_P * share
    return combined_P


def _norm(vector_P: Tensor) -> float:
    """Return the Euclidean norm."""
    return math.sqrt(blocked_dot(vector_P, vector_P))


def _diagnose(
    update_MP: Tensor, combined_P: Tensor, gram: list[list[float]], num_conflicts: int, norm_ratio: float
) -> CmgaDiagnostics:
    """Return what to log."""
    norms = [math.sqrt(gram[i][i]) for i in range(len(gram))]
    cosines = [
        [value / (norm_i * norm_j) if norm_i * norm_j > 0.0 else 0.0 for value, norm_j in zip(row, norms, strict=True)]
        for row, norm_i in zip(gram, norms, strict=True)
    ]
    return CmgaDiagnostics(
        cosine_MM=torch.tensor(cosines, dtype=torch.float64).clamp(-1.0, 1.0),
        num_conflicts=num_conflicts,
        norm_ratio=norm_ratio,
        min_alignment=min(blocked_dot(combined_P, update_P) for update_P in update_MP),
    )
