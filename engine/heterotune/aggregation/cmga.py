"""CMGA, cross-model gradient alignment: how the updates of several model types become one.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's own algorithm was not readable to us.

Shape letters: M model types, P parameters.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heterotune.aggregation.directions import Direction, Form, projected
from heterotune.aggregation.exact import weighted_sum
from heterotune.aggregation.gram import Family, Gram, Grams, Vector, whole_grams
from heterotune.errors import AggregationError

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
    """Norm of the result, before any rescaling, over that of the plain mean; 1 where the plain mean is 0."""
    min_alignment: float
    """The smallest dot product of the result with a type's own update; below 0 some type is hurt (to first order)."""
    cosine_after: Tensor
    """Where a form changes updates: cosines between what became of them, shape (M, M). Where it only weighs them anew:
    cosines between each original update and the result, shape (M,). float64; 0 where one of the two is 0."""
    magnitude_MM: Tensor
    """Magnitude similarity of two types' updates, 2 |a| |b| / (|a|² + |b|²), 1 = equally long; float64, 0 for zeros."""
    targets_MM: Tensor | None = None
    """What the form keeps for the next round of the same types."""


@dataclass(frozen=True)
class SharedGroup:
    """What CMGA aligns as one vector: tensors that the same model types share."""

    updates: Family
    """One for each model type in the round, after minus before. Not changed."""
    weight_M: Tensor
    """Each type's share of the cohort's tokens; float64, sums to 1."""
    model_types: Sequence[str] = ()
    """Names of the types, for messages."""
    targets_MM: Tensor | None = None
    """What the form kept of the last round with these types; None = nothing."""


def align(
    update_MP: Tensor,
    *,
    weight_M: Tensor,
    rescale: bool,
    model_types: Sequence[str] = (),
    form: Form = projected,
    targets_MM: Tensor | None = None,
) -> tuple[Tensor, CmgaDiagnostics]:
    """Align the updates of one group that is all here, as one tensor; see `align_groups`.

    Args:
        update_MP: One row per model type in the round, after minus before, float64, on one device. Not changed.
        weight_M: As in `SharedGroup`.
        rescale: As in `align_groups`.
        model_types: As in `SharedGroup`.
        form: As in `align_groups`.
        targets_MM: As in `SharedGroup`.

    Returns:
        The combined update, shape (P,), float64, a new tensor; and what to log.
    """
    assert update_MP.dtype == torch.float64 and update_MP.ndim == 2
    group = SharedGroup([{"": update_P} for update_P in update_MP], weight_M, model_types, targets_MM)
    [(combined, seen)] = align_groups([group], rescale=rescale, grams=whole_grams, form=form)
    return combined[""], seen


def align_groups(
    groups: Sequence[SharedGroup], *, rescale: bool, grams: Grams, form: Form = projected
) -> list[tuple[Vector, CmgaDiagnostics]]:
    """Turn the model types' updates toward one another and combine them, group by group.

    Args:
        groups: What to align, each by itself.
        rescale: Keep the norm of the plain weighted mean where the result is another.
        grams: Gives dot products. It is asked twice, about all groups at once: each time may be a message to all ranks.
        form: How; see `directions`. Where it changes nothing, the result is the weighted mean, bit for bit.

    Returns:
        For each group the combined update, new tensors; and what to log.

    Raises:
        AggregationError: If an update is not finite; says which model type.
    """
    for group in groups:
        assert len(group.weight_M) == len(group.updates) > 0
        assert math.isclose(float(group.weight_M.sum()), 1.0, rel_tol=1e-9)
    found = grams(group.updates for group in groups)
    seen = [_Seen(group, gram, form) for group, gram in zip(groups, found, strict=True)]
    combined = [_combine(one.group.updates, one.direction.shares) for one in seen]
    norms = iter(grams(_means_and_results(seen, combined)))
    return [_finish(one, result, norms, rescale) for one, result in zip(seen, combined, strict=True)]


class _Seen:
    """A group whose dot products are known."""

    def __init__(self, group: SharedGroup, gram: Gram, form: Form) -> None:
        _check_finite(gram, group.model_types)
        self.group, self.gram = group, gram
        self.weights: list[float] = group.weight_M.tolist()
        kept = None if group.targets_MM is None else group.targets_MM.tolist()
        self.direction: Direction = form(gram, self.weights, kept)
        self.is_changed = self.direction.shares != self.weights


def _check_finite(gram: Gram, model_types: Sequence[str]) -> None:
    """Refuse NaN and infinity: they show in a row's product with itself, on every rank alike."""
    for row in range(len(gram)):
        if not math.isfinite(gram[row][row]):
            name = f" ({model_types[row]})" if model_types else ""
            raise AggregationError(f"CMGA: the update of model type {row}{name} is not finite")


def _combine(updates: Family, shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the sum of share * update in row order."""
    return {key: weighted_sum([update[key] for update in updates], shares) for key in updates[0]}


def _means_and_results(seen: Sequence[_Seen], combined: Sequence[Vector]) -> Iterator[Family]:
    """Yield the plain mean and the result of every group where they differ, each as a family of its own.

    Their norms could be had from the Gram matrix, but not to the digits that are left where updates cancel.
    """
    for one, result in zip(seen, combined, strict=True):
        if one.is_changed:
            yield [_combine(one.group.updates, one.weights)]
            yield [result]


def _finish(
    one: _Seen, result: dict[str, Tensor], norms: Iterator[Gram], rescale: bool
) -> tuple[Vector, CmgaDiagnostics]:
    """Rescale the result of a group where it is not the mean, in place; say what happened."""
    factor, norm_ratio = 1.0, 1.0
    if one.is_changed:
        mean_norm, norm = (math.sqrt(next(norms)[0][0]) for _ in range(2))
        if rescale and norm > CANCELLED * mean_norm:
            factor = mean_norm / norm
            for combined_P in result.values():
                combined_P *= factor
        norm_ratio = norm / mean_norm if mean_norm > 0.0 else 1.0
    return result, _diagnose(one, [factor * share for share in one.direction.shares], norm_ratio)


def _diagnose(one: _Seen, shares: Sequence[float], norm_ratio: float) -> CmgaDiagnostics:
    """Return what to log."""
    gram, targets = one.gram, one.direction.targets
    types = range(len(gram))
    return CmgaDiagnostics(
        cosine_MM=_cosines(gram),
        num_conflicts=sum(gram[i][j] < 0.0 for i in types for j in range(i)),
        norm_ratio=norm_ratio,
        min_alignment=min(math.fsum(map(operator.mul, shares, row)) for row in gram),
        cosine_after=_cosines_after(one.direction, gram),
        magnitude_MM=_magnitudes(gram),
        targets_MM=None if targets is None else torch.tensor(targets, dtype=torch.float64),
    )


def _cosines(gram: Gram) -> Tensor:
    """Return the cosines of vectors whose dot products are known, shape (M, M); 0 where one is 0."""
    norms = [math.sqrt(max(gram[i][i], 0.0)) for i in range(len(gram))]
    cosines = [
        [value / (norm_i * norm_j) if norm_i * norm_j > 0.0 else 0.0 for value, norm_j in zip(row, norms, strict=True)]
        for row, norm_i in zip(gram, norms, strict=True)
    ]
    return torch.tensor(cosines, dtype=torch.float64).clamp(-1.0, 1.0)


def _cosines_after(direction: Direction, gram: Gram) -> Tensor:
    """Return `CmgaDiagnostics.cosine_after`."""
    rows = np.array(direction.parts) if direction.parts is not None else np.eye(len(gram))
    if direction.parts is None:
        rows = np.vstack([rows, direction.shares])
    after = _cosines((rows @ np.array(gram) @ rows.T).tolist())
    return after if direction.parts is not None else after[-1, :-1]


def _magnitudes(gram: Gram) -> Tensor:
    """Return `CmgaDiagnostics.magnitude_MM`."""
    squares = torch.tensor([gram[i][i] for i in range(len(gram))], dtype=torch.float64)
    total_MM = squares[:, None] + squares[None, :]
    similarity_MM = 2.0 * (squares[:, None] * squares[None, :]).sqrt() / total_MM
    return torch.where(total_MM > 0.0, similarity_MM, 0.0)
