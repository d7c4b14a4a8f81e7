"""FlexLoRA: siblings share the mean of their products; each model type gets it back cut to its own rank.

    ΔW̄ = Σ_k p_k s_k U_k V_k = L Σ Rᵀ      a type of rank r with s = alpha / r:  U = L_r Σ_r / s,  V = R_rᵀ

over all clients in the round whose model has the layer; siblings' layers meet by their number in the model they were
cut from. A type without clients in the round gets the new values, too. Components that the mean product does not need
keep the type's V, with U = 0, so that they can train.

Bytes: up and down as `fedavg_lora`.

Source: FlexLoRA (NeurIPS 2024, arXiv:2402.11505) from its formulas. Differs: the SVD is of a small core between QR
factors, which gives the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, Branch
from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.product_space import Singular, beside, cut, singular, stacked
from heterotune.config.schema import RunConfig
from heterotune.strategies.client_factors import SiteClients, clients_at_sites
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, change_to


def make(config: RunConfig) -> Strategy:
    """Return plain LoRA of scope "type", each type at its own rank, combined in product space."""
    return Strategy("flexlora", partial(adapter_layout, "flexlora", config), combine)


def combine(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Return for every model type the mean product of its family, cut to its rank."""
    meeting: dict[str, list[SiteClients]] = defaultdict(list)
    for update in updates:
        for site in clients_at_sites(update, server):
            meeting[site.branch.site].append(site)
    products = {site: _mean_product(members) for site, members in meeting.items()}
    change: dict[str, Tensor] = {}
    metrics: list[dict[str, Any]] = []
    for layout in server.layouts.values():
        lost, whole = 0.0, 0.0
        for branch in layout.branches:
            found = products.get(branch.site)
            if found is not None and len(found.values_Q):
                squares_Q = found.values_Q.square()
                rank = _given_back(layout, branch, found, server, change)
                lost, whole = lost + float(squares_Q[rank:].sum()), whole + float(squares_Q.sum())
        if whole:
            error = {"name": "product/truncation_error", "model_type": layout.model_type, "unit": "share"}
            metrics.append({**error, "value": math.sqrt(lost / whole)})
    return Combined(change, metrics)


def _mean_product(members: Sequence[SiteClients]) -> Singular:
    """Return Σ_k p_k s_k U_k V_k over all clients at a site."""
    total = sum(float(member.weight_K.sum()) for member in members)
    parts = [
        stacked(member.up_KOr, member.down_KrI, member.weight_K / total * member.branch.scale) for member in members
    ]
    return singular(beside(*parts))


def _given_back(
    layout: AdapterLayout, branch: Branch, found: Singular, server: ServerRound, change: dict[str, Tensor]
) -> int:
    """Note what makes a branch the mean product, cut to its rank; returns that."""
    specs: Mapping = {spec.name: spec for spec in layout.tensors if spec.name in (branch.up, branch.down)}
    up, down = specs[branch.up], specs[branch.down]
    rank = down.shape[0]
    new = cut(found, rank, branch.scale, server.values[down.key].double())
    change[up.key] = change_to(server, up.key, new.up_OR)
    change[down.key] = change_to(server, down.key, new.down_RI)
    return rank
