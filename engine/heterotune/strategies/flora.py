"""FLoRA: the clients' LoRAs are stacked, merged into each model type's frozen weights, and every round begins afresh.

    W ← W + Σ_k p_k s U_k V_k      exactly: U = [p_k s U_k], V = [V_k] side by side, in client order

Clients then draw a new V from the run's seed, the same within a model type, with U = 0: fresh LoRA is not downloaded.
Between types nothing is shared, because their frozen weights drift apart.

Bytes: up as `fedavg_lora`; down, a client gets the stacks of all rounds since it last took part, in each a message of
K r Σ_sites (d_out + d_in) elements, K the clients of its model type that counted and r its rank; or the whole change,
Σ_sites (header + 4 d_out d_in) bytes, where that is fewer.

Source: FLoRA (NeurIPS 2024, arXiv:2409.05976) from its formulas. Differs: s = alpha / r stands in the stack, so that
ranks may differ; a wire down that rounds makes clients and server add what arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.product_space import stacked
from heterotune.config.schema import RunConfig
from heterotune.strategies.client_factors import clients_at_sites
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate


def make(config: RunConfig) -> Strategy:
    """Return LoRA that is drawn anew every round, with a base change under every branch."""
    return Strategy("flora", partial(adapter_layout, "flora", config), combine)


def combine(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Return the stacks as base changes; the LoRA of the round is gone."""
    base = {}
    for update in updates:
        keys = {site.module: site.key for site in server.layouts[update.model_type].base}
        for site in clients_at_sites(update, server):
            stack = stacked(site.up_KOr, site.down_KrI, site.share_K * site.branch.scale)
            base[keys[site.branch.module]] = (stack.up_OR, stack.down_RI)
    return Combined({}, base=base)
