"""What a federated method says: its adapters, what its clients do locally, and how updates become new common values.

A method works on plain tensors. It never learns how many ranks there are, and nothing it does may depend on it. What
it does not say is FedAvg's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import weighted_sum
from heterotune.aggregation.gram import Grams, whole_grams
from heterotune.fleet.model_types import ModelType
from heterotune.training.local_rule import PLAIN, LocalRule


@dataclass(frozen=True)
class ClientUpdates:
    """The single updates of a model type's clients in a round, in client order.

    Attributes:
        client_ids: K ids, rising.
        share_K: n_k / N_m, float64, sums to 1.
        update_KP: What the clients sent, float32; columns as in `AdapterLayout.travelling_columns`. Not changed.
    """

    client_ids: Sequence[int]
    share_K: Tensor
    update_KP: Tensor


@dataclass(frozen=True)
class TypeUpdate:
    """The exact mean update of a model type's clients in a round.

    Attributes:
        model_type: Its name.
        weight: What it weighs among model types: N_m, the rows of its clients that count; their number where the
            method lets all clients weigh the same.
        mean: Key -> Σ_k (n_k / N_m) u_k, float64, flat; what is here of it.
        num_clients: Clients that count.
        clients: Their single updates, where the method needs them (`config.methods`), else None.
    """

    model_type: str
    weight: int
    mean: Mapping[str, Tensor]
    num_clients: int = 0
    clients: ClientUpdates | None = None


@dataclass(frozen=True)
class ServerRound:
    """What a server knows when it combines a round's updates, beside the updates.

    Attributes:
        round_number: The round, from 1.
        run_seed: For `randomness.generator`.
        layouts: Model type -> its adapter.
        tensors: Key -> one of the specs that share it, for all tensors that travel.
        values: Key -> the common value that clients trained from, float32, whole. Not changed.
        own: Key -> the server's own value, to which changes are added; {} = as `values`. It differs where the wire
            down rounds.
        state: What `Combined.state` of the last round that changed something held; {} before. Not changed.
        num_enlisted: Model type -> its clients in the whole fleet, whether drawn or not.
        grams: Gives dot products of whole vectors where only slices are here.
    """

    round_number: int = 1
    run_seed: int = 0
    layouts: Mapping[str, AdapterLayout] = field(default_factory=dict)
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    num_enlisted: Mapping[str, int] = field(default_factory=dict)
    grams: Grams = whole_grams

    def own_value(self, key: str) -> Tensor:
        """Return the server's own value of a tensor, float64, a new tensor."""
        return self.own.get(key, self.values[key]).double()


@dataclass(frozen=True)
class Combined:
    """What a server made of a round.

    Attributes:
        change: Key -> what to add to the common value, float64, flat; as much of it as of the updates. May be an
            update's own memory.
        metrics: Numbers to log: name, value, unit and what else identifies them.
        state: What the server keeps for the next round: name -> tensor, saved with every checkpoint. Only a method that
            needs whole sums may keep any.
        base: Key of a site (`AdapterLayout.base`) -> U (d_out, R) and V (R, d_in), float64: U V is added to the frozen
            weight for good. All sites of a model type or none, with one R. Only where single updates are needed.
    """

    change: dict[str, Tensor]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    base: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


LayoutRule = Callable[[ModelType, Sequence[ModelType]], AdapterLayout]
"""A model type's adapter: which tensors train, and over which clients each is averaged; (model type, whole fleet)."""

Combine = Callable[[Sequence[TypeUpdate], ServerRound], Combined]
"""Turns the round's updates, in model-type order, into changes of the common values.

Where the method needs no more than slices (`config.methods`), a tensor may be here in part only, all types' the same
part: then work element by element, and get what depends on whole tensors from `ServerRound.grams`.
"""

RuleOfRound = Callable[[AdapterLayout, int], LocalRule]
"""What a chunk's clients of a model type do locally: (its adapter, the round, from 1). Made anew for every chunk, so a
rule may keep what it sees in one."""


def fedavg(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Return the weighted mean of every tensor over its clients (McMahan et al., 2017)."""
    keys = {key for update in updates for key in update.mean}
    return Combined({key: weighted_mean(updates, key) for key in sorted(keys)})


def plain_rule(layout: AdapterLayout, round_number: int) -> LocalRule:
    """Return FedAvg's local training."""
    return PLAIN


@dataclass(frozen=True)
class Strategy:
    """A federated method; every part has FedAvg's as its default.

    Attributes:
        name: As in a run file and in `config.methods.METHODS`.
        layout: See `LayoutRule`.
        combine: See `Combine`.
        local_rule: See `RuleOfRound`.
        weights: What a client weighs among those of its model type: its rows, or all the same.
        pools_clients: Whether one client of each model type trains on the rows of all, in one place; see `pooling`.
        warnings: What a user should know before the run, one line each.
    """

    name: str
    layout: LayoutRule
    combine: Combine = fedavg
    local_rule: RuleOfRound = plain_rule
    weights: Literal["rows", "clients"] = "rows"
    pools_clients: bool = False
    warnings: Sequence[str] = ()


def change_to(server: ServerRound, key: str, new: Tensor) -> Tensor:
    """Return what makes a common value a new one, float64, flat: for `Combined.change`."""
    return (new - server.own_value(key)).flatten()


def holders(updates: Sequence[TypeUpdate], key: str) -> list[TypeUpdate]:
    """Return the updates that have a tensor, in model-type order."""
    return [update for update in updates if key in update.mean]


def type_weights(updates: Sequence[TypeUpdate]) -> Tensor:
    """Return w_m = N_m / Σ N_m, float64, shape (M,)."""
    total = sum(update.weight for update in updates)
    return torch.tensor([update.weight / total for update in updates], dtype=torch.float64)


def weighted_mean(updates: Sequence[TypeUpdate], key: str) -> Tensor:
    """Return FedAvg's mean of a tensor over its clients: Σ_m w_m Σ_k (n_k / N_m) u_k, added in model-type order.

    A tensor of one model type is that type's mean itself, not a copy.
    """
    members = holders(updates, key)
    if len(members) == 1:
        return members[0].mean[key]
    return weighted_sum([update.mean[key] for update in members], type_weights(members).tolist())
