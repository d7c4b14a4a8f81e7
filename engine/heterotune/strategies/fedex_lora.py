"""FedEx-LoRA: FedAvg of LoRA within each model type, made exact by a change of the frozen weights.

The means of U and V are averaged as in FedIT. What the mean of products has beyond the product of means,

    s Σ_k p_k U_k V_k - s Ū V̄ = s Σ_k p_k (U_k - Ū)(V_k - V̄),

is added to the frozen weight for good, so that the next round begins with the mean of the clients' models. With one
client it is 0 and nothing is sent.

Bytes: up and down as `fedavg_lora`; besides, a client downloads the factors of all rounds since it last took part, in
each a message of K r Σ_sites (d_out + d_in) elements, K the clients of its model type that counted and r its rank; or
the whole change, Σ_sites (header + 4 d_out d_in) bytes, where that is fewer.

Source: FedEx-LoRA, read in third parties' notes only. A wire down that rounds makes the change as inexact as it is:
clients and server add up the factors that arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.product_space import averaging_residual, squared_norm, stacked
from heterotune.config.schema import RunConfig
from heterotune.strategies.client_factors import clients_at_sites
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, fedavg


def make(config: RunConfig) -> Strategy:
    """Return plain LoRA of scope "type" with a base change under every branch."""
    return Strategy("fedex_lora", partial(adapter_layout, "fedex_lora", config), combine)


def combine(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Return the means of U and V, and as a base change what they miss of the mean product."""
    base, metrics = {}, []
    for update in updates:
        keys = {site.module: site.key for site in server.layouts[update.model_type].base}
        missed, whole = 0.0, 0.0
        for site in clients_at_sites(update, server):
            up_KOr, down_KrI, share_K = site.up_KOr, site.down_KrI, site.share_K
            residual = averaging_residual(up_KOr, down_KrI, share_K)
            missed += squared_norm(residual)
            whole += squared_norm(stacked(up_KOr, down_KrI, share_K))
            if len(share_K) > 1:
                base[keys[site.branch.module]] = (residual.up_OR * site.branch.scale, residual.down_RI)
        error = math.sqrt(missed / whole) if whole else 0.0
        told = {"name": "product/averaging_error", "model_type": update.model_type, "value": error, "unit": "share"}
        metrics.append(told)
    return Combined(fedavg(updates, server).change, metrics, base=base)
