"""Averages over model types that hold different parts of common tensors.

Legend: P elements of a part, F elements of the whole tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """What one model type says of a part of a tensor.

    Attributes:
        places_P: Where its elements are in the flat whole tensor, int64, each place once.
        value_P: Its elements, float64: the mean over its clients.
        weight: What these clients weigh together, above 0.
        num_clients: How many they are.
    """

    places_P: Tensor
    value_P: Tensor
    weight: float
    num_clients: int = 1


@dataclass(frozen=True)
class Covered:
    """An average over parts.

    Attributes:
        mean_F: The average, float64; 0 where no part is.
        clients_F: Clients whose part has the element, int64.
    """

    mean_F: Tensor
    clients_F: Tensor


def coverage_mean(parts: Sequence[Part], num_elements: int) -> Covered:
    """Return, element by element, the weighted mean over the parts that have it ("Every Parameter Matters", HeteroFL).

    Args:
        parts: In model-type order.
        num_elements: F.
    """
    total_F, weight_F = _added(parts, num_elements), torch.zeros(num_elements, dtype=torch.float64)
    for part in parts:
        weight_F[part.places_P] += part.weight
    return Covered(torch.where(weight_F > 0, total_F / weight_F, 0.0), _clients(parts, num_elements))


def padded_change(parts: Sequence[Part], before_F: Tensor) -> Covered:
    """Return what zero-padding changes: Σ w_i pad(before + value_i) - before (HETLoRA).

    It is Σ w_i pad(value_i), less the share of those that miss an element times what was there, which is how it is
    built: nothing large is subtracted. An element that all miss does not change.

    Args:
        parts: Changes, in model-type order; weights sum to 1.
        before_F: The whole tensor from which all parts began, float64.
    """
    clients_F, missing_F = _clients(parts, len(before_F)), torch.zeros_like(before_F)
    for part in parts:
        misses_F = torch.ones_like(before_F)
        misses_F[part.places_P] = 0.0
        missing_F += part.weight * misses_F
    change_F = _added(parts, len(before_F)) - missing_F * before_F
    return Covered(torch.where(clients_F > 0, change_F, 0.0), clients_F)


def _added(parts: Sequence[Part], num_elements: int) -> Tensor:
    total_F = torch.zeros(num_elements, dtype=torch.float64)
    for part in parts:
        total_F[part.places_P] += part.weight * part.value_P
    return total_F


def _clients(parts: Sequence[Part], num_elements: int) -> Tensor:
    clients_F = torch.zeros(num_elements, dtype=torch.int64)
    for part in parts:
        clients_F[part.places_P] += part.num_clients
    return clients_F
