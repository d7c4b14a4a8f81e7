"""What a federated method says: a table of scopes for each model type, and how the types' updates become new values.

A strategy works on plain tensors. It never learns how many ranks there are, and nothing it does may depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import weighted_sum
from heterotune.aggregation.gram import Grams, whole_grams
from heterotune.fleet.model_types import ModelType


@dataclass(frozen=True)
class TypeUpdate:
    """The exact mean update of a model type's clients in a round.

    Attributes:
        model_type: Its name.
        num_rows: N_m, the rows of its clients in the cohort.
        mean: Key -> Σ_k (n_k / N_m) u_k, float64, flat; what is here of it.
    """

    model_type: str
    num_rows: int
    mean: Mapping[str, Tensor]


@dataclass(frozen=True)
class Combined:
    """What a server made of a round.

    Attributes:
        change: Key -> what to add to the common value, float64, flat; as much of it as of the updates. May be an
            update's own memory.
        metrics: Numbers to log: name, value, unit and what else identifies them.
    """

    change: dict[str, Tensor]
    metrics: list[dict[str, Any]] = field(default_factory=list)


class Strategy(Protocol):
    """A federated method."""

    name: str

    def layout(self, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
        """Return a model type's adapter: which tensors train, and over which clients each is averaged."""
        ...

    def combine(
        self, updates: Sequence[TypeUpdate], tensors: Mapping[str, TensorSpec], grams: Grams = whole_grams
    ) -> Combined:
        """Turn the round's updates, in model-type order, into changes of the common values.

        A tensor may be here in part only, all types' the same part: work element by element, and get what depends on
        whole tensors from `grams`.

        Args:
            updates: One for each model type with clients in the cohort. Not changed.
            tensors: Key -> one of the specs that share it.
            grams: Gives dot products of whole vectors.
        """
        ...


def holders(updates: Sequence[TypeUpdate], key: str) -> list[TypeUpdate]:
    """Return the updates that have a tensor, in model-type order."""
    return [update for update in updates if key in update.mean]


def type_weights(updates: Sequence[TypeUpdate]) -> Tensor:
    """Return w_m = N_m / Σ N_m, float64, shape (M,)."""
    total = sum(update.num_rows for update in updates)
    return torch.tensor([update.num_rows / total for update in updates], dtype=torch.float64)


def weighted_mean(updates: Sequence[TypeUpdate], key: str) -> Tensor:
    """Return FedAvg's mean of a tensor over its clients: Σ_m w_m Σ_k (n_k / N_m) u_k, added in model-type order.

    A tensor of one model type is that type's mean itself, not a copy.
    """
    members = holders(updates, key)
    if len(members) == 1:
        return members[0].mean[key]
    return weighted_sum([update.mean[key] for update in members], type_weights(members).tolist())
