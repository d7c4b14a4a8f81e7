"""HETLoRA: siblings share LoRA of the largest rank among them; each holds its first components, and norms weigh.

A client of rank r gets V[:r], U[:, :r] of the common tensors (truncation) and minimises

    loss + λ Σ_sites ‖V[c:]‖ ‖U[:, c:]‖,     c = floor(kept_share · r)

The server pads what clients have with zeros to r_max and averages U and V of a site with weights ‖U_k V_k‖ there
(`weights: sparsity`), or rows (`weights: size`). A component that no client of the round has stays as it is. All use
one scale, alpha / r_max.

`prune: true`: where the regularised sum got smaller in a client's training, it sends components from c on as 0. A
client's rank is its model type's, so it gets them back in the next round; the paper's exact test is not known to us.

Bytes: up and down as `fedavg_lora`: a client sends and gets its part.

Source: HETLoRA (EMNLP 2024, arXiv:2401.06432) as told by others; no official code. Differs: see pruning.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.coverage import Covered, Part, padded_change
from heterotune.aggregation.product_space import Factors, beside, client_squared_norms, squared_norm, stacked
from heterotune.config.product_options import HetloraOptions
from heterotune.config.schema import RunConfig
from heterotune.strategies.client_factors import SiteClients, clients_at_sites, places_in_common
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, change_to
from heterotune.strategies.windowed import coverage_metrics
from heterotune.training.local_rule import LocalRule


def make(config: RunConfig) -> Strategy:
    """Return parts of common LoRA tensors, regularised locally, zero-padded and weighted at the server."""
    options = config.hetlora
    layout = partial(adapter_layout, "hetlora", config)
    return Strategy("hetlora", layout, partial(combine, options=options), partial(local_rule, options=options))


def local_rule(layout: AdapterLayout, round_number: int, *, options: HetloraOptions) -> LocalRule:
    """Return the regulariser of the last components, and pruning if it is asked for."""

    def loss_term(bank: Bank, start_KP: Tensor) -> Tensor:
        return options.regulariser * last_components(layout, bank.__getitem__, options.kept_share)

    def finish(bank: Bank, rate_K1: Tensor) -> None:
        prune(bank, options.kept_share)

    return LocalRule(loss_term=loss_term if options.regulariser else None, finish=finish if options.prune else None)


def last_components(layout: AdapterLayout, tensor_of: Callable[[str], Tensor], kept_share: float) -> Tensor:
    """Return Σ_sites ‖V[c:]‖ ‖U[:, c:]‖ of each client, shape (K,), differentiable.

    Args:
        layout: The sites.
        tensor_of: Name of a tensor -> its values, shape (K, ...).
        kept_share: c / r, before it is rounded down.
    """
    total_K: Tensor | None = None
    for branch in layout.branches:
        up_KOr, down_KrI = tensor_of(branch.up), tensor_of(branch.down)
        first = math.floor(kept_share * down_KrI.shape[1])
        up_K, down_K = (
            torch.linalg.vector_norm(part, dim=(1, 2)) for part in (up_KOr[:, :, first:], down_KrI[:, first:])
        )
        total_K = up_K * down_K if total_K is None else total_K + up_K * down_K
    assert total_K is not None, "no branch"
    return total_K


@torch.no_grad()
def prune(bank: Bank, kept_share: float) -> None:
    """Set the last components of those clients to 0 whose training made them smaller."""
    layout = bank.layout
    shapes = {spec.name: spec.shape for spec in layout.tensors}

    def at_start(name: str) -> Tensor:
        return bank.start_KP[:, layout.columns[name]].unflatten(1, shapes[name])

    before_K = last_components(layout, at_start, kept_share)
    shrunk_K = last_components(layout, bank.__getitem__, kept_share) < before_K
    for branch in layout.branches:
        first = math.floor(kept_share * shapes[branch.down][0])
        bank[branch.up][shrunk_K, :, first:] = 0.0
        bank[branch.down][shrunk_K, first:] = 0.0


def combine(updates: Sequence[TypeUpdate], server: ServerRound, *, options: HetloraOptions) -> Combined:
    """Return the padded means of U and V, and how far their product is from the mean product."""
    meeting: dict[str, list[SiteClients]] = defaultdict(list)
    for update in updates:
        for site in clients_at_sites(update, server):
            meeting[site.branch.site].append(site)
    change: dict[str, Tensor] = {}
    found: list[Covered] = []
    missed, whole = 0.0, 0.0
    for sites in meeting.values():
        shares = _shares(sites, by_norm=options.weights == "sparsity")
        up, down = (_padded(sites, letter, shares, server) for letter in ("up", "down"))
        found += [up.covered, down.covered]
        new = Factors(up.new, down.new)
        change[sites[0].up.key] = change_to(server, sites[0].up.key, new.up_OR)
        change[sites[0].down.key] = change_to(server, sites[0].down.key, new.down_RI)
        mean = beside(
            *(stacked(site.up_KOr, site.down_KrI, share_K) for site, share_K in zip(sites, shares, strict=True))
        )
        missed += squared_norm(beside(new, Factors(-mean.up_OR, mean.down_RI)))
        whole += squared_norm(mean)
    error = {"name": "product/padding_error", "value": math.sqrt(missed / whole) if whole else 0.0, "unit": "share"}
    return Combined(change, [error, *coverage_metrics(found)])


def _shares(sites: Sequence[SiteClients], *, by_norm: bool) -> list[Tensor]:
    """Return what each client weighs at a site, in all 1: by its product's norm if any is above 0, else by its rows."""
    weights = [site.weight_K for site in sites]
    if by_norm:
        norms = [client_squared_norms(site.up_KOr, site.down_KrI).sqrt() for site in sites]
        weights = norms if any(norm_K.any() for norm_K in norms) else weights
    total = sum(float(weight_K.sum()) for weight_K in weights)
    return [weight_K / total for weight_K in weights]


class _Padded(NamedTuple):
    """A common tensor after the round, and who covered it."""

    new: Tensor
    covered: Covered


def _padded(
    sites: Sequence[SiteClients], letter: Literal["up", "down"], shares: Sequence[Tensor], server: ServerRound
) -> _Padded:
    """Return the mean of a tensor over all clients of a site, each 0 where it has no component."""
    parts = []
    for site, share_K in zip(sites, shares, strict=True):
        spec: TensorSpec = getattr(site, letter)
        weight = float(share_K.sum())
        mean_P = (share_K / weight if weight else share_K) @ site.change_KP(spec)
        parts.append(Part(places_in_common(spec, server.round_number), mean_P, weight, len(share_K)))
    key, before = getattr(sites[0], letter).key, server.values[getattr(sites[0], letter).key].double()
    covered = padded_change(parts, before.flatten())
    new = torch.where(covered.clients_F > 0, before.flatten() + covered.mean_F, server.own_value(key).flatten())
    return _Padded(new.view(before.shape), covered)
