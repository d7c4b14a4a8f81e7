"""CMGA, cross-model gradient alignment: how the updates of several model types become one.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's own algorithm was not readable to us.

Shape letters: M model types, P parameters.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.aggregation.exact import weighted_sum
from heterotune.aggregation.gram import Family, Gram, Grams, Vector, whole_grams
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


@dataclass(frozen=True)
class SharedGroup:
    """What CMGA aligns as one vector: tensors that the same model types share."""

    updates: Family
    """One for each model type in the round, after minus before. Not changed."""
    weight_M: Tensor
    """Each type's share of the cohort's tokens; float64, sums to 1."""
    model_types: Sequence[str] = ()
    """Names of the types, for messages."""


def align(
    update_MP: Tensor, *, weight_M: Tensor, rescale: bool, model_types: Sequence[str] = ()
) -> tuple[Tensor, CmgaDiagnostics]:
    """Align the updates of one group that is all here, as one tensor; see `align_groups`.

    Args:
        update_MP: One row per model type in the round, after minus before, float64, on one device. Not changed.
        weight_M: As in `SharedGroup`.
        rescale: As in `align_groups`.
        model_types: As in `SharedGroup`.

    Returns:
        The combined update, shape (P,), float64, a new tensor; and what to log.
    """
    assert update_MP.dtype == torch.float64 and update_MP.ndim == 2
    group = SharedGroup([{"": update_P} for update_P in update_MP], weight_M, model_types)
    [(combined, seen)] = align_groups([group], rescale=rescale, grams=whole_grams)
    return combined[""], seen


def align_groups(groups: Sequence[SharedGroup], *, rescale: bool, grams: Grams) -> list[tuple[Vector, CmgaDiagnostics]]:
    """Turn the model types' updates toward one another and combine them (pairwise projection), group by group.

    Type i's update loses, for each other type j in row order, its part against j's original update where the two
    conflict. Without a conflict the result is the weighted mean, bit for bit. With two types no type is hurt; with more
    there is no such guarantee.

    Args:
        groups: What to align, each by itself.
        rescale: Keep the norm of the plain weighted mean where there was a conflict.
        grams: Gives dot products. It is asked twice, about all groups at once: each time may be a message to all ranks.

    Returns:
        For each group the combined update, new tensors; and what to log.

    Raises:
        AggregationError: If an update is not finite; says which model type.

    Source: projection as in PCGrad (Yu et al., 2020). Differs: fixed order, weighted, on aggregated updates, rescaled.
    """
    for group in groups:
        assert len(group.weight_M) == len(group.updates) > 0
        assert math.isclose(float(group.weight_M.sum()), 1.0, rel_tol=1e-9)
    seen = [_Seen(group, gram) for group, gram in zip(groups, grams(group.updates for group in groups), strict=True)]
    combined = [_combine(one.group.updates, one.shares) for one in seen]
    norms = iter(grams(_means_and_results(seen, combined)))
    return [_finish(one, result, norms, rescale) for one, result in zip(seen, combined, strict=True)]


class _Seen:
    """A group whose dot products are known."""

    def __init__(self, group: SharedGroup, gram: Gram) -> None:
        _check_finite(gram, group.model_types)
        self.group, self.gram = group, gram
        self.weights = group.weight_M.tolist()
        self.num_conflicts = sum(gram[i][j] < 0.0 for i in range(len(gram)) for j in range(i))
        self.shares = _projected_shares(gram, self.weights) if self.num_conflicts else self.weights


def _check_finite(gram: Gram, model_types: Sequence[str]) -> None:
    """Refuse NaN and infinity: they show in a row's product with itself, on every rank alike."""
    for row in range(len(gram)):
        if not math.isfinite(gram[row][row]):
            name = f" ({model_types[row]})" if model_types else ""
            raise AggregationError(f"CMGA: the update of model type {row}{name} is not finite")


def _projected_shares(gram: Gram, weights: list[float]) -> list[float]:
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


def _combine(updates: Family, shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the sum of share * update in row order."""
    return {key: weighted_sum([update[key] for update in updates], shares) for key in updates[0]}


def _means_and_results(seen: Sequence[_Seen], combined: Sequence[Vector]) -> Iterator[Family]:
    """Yield the plain mean and the result of every group with a conflict, each as a family of its own.

    Their norms could be had from the Gram matrix, but not to the digits that are left where updates cancel.
    """
    for one, result in zip(seen, combined, strict=True):
        if one.num_conflicts:
            yield [_combine(one.group.updates, one.weights)]
            yield [result]


def _finish(
    one: _Seen, result: dict[str, Tensor], norms: Iterator[Gram], rescale: bool
) -> tuple[Vector, CmgaDiagnostics]:
    """Rescale the result of a group with a conflict, in place; say what happened."""
    factor, norm_ratio = 1.0, 1.0
    if one.num_conflicts:
        mean_norm, norm = (math.sqrt(next(norms)[0][0]) for _ in range(2))
        if rescale and norm > CANCELLED * mean_norm:
            factor = mean_norm / norm
            for combined_P in result.values():
                combined_P *= factor
        norm_ratio = norm / mean_norm if mean_norm > 0.0 else 1.0
    return result, _diagnose(one, [factor * share for share in one.shares], norm_ratio)


def _diagnose(one: _Seen, shares: Sequence[float], norm_ratio: float) -> CmgaDiagnostics:
    """Return what to log."""
    gram = one.gram
    norms = [math.sqrt(gram[i][i]) for i in range(len(gram))]
    cosines = [
        [value / (norm_i * norm_j) if norm_i * norm_j > 0.0 else 0.0 for value, norm_j in zip(row, norms, strict=True)]
        for row, norm_i in zip(gram, norms, strict=True)
    ]
    return CmgaDiagnostics(
        cosine_MM=torch.tensor(cosines, dtype=torch.float64).clamp(-1.0, 1.0),
        num_conflicts=one.num_conflicts,
        norm_ratio=norm_ratio,
        min_alignment=min(math.fsum(map(operator.mul, shares, row)) for row in gram),
    )
