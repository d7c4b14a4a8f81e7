"""FedYogi on LoRA: the server steps by Yogi, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`. All clients weigh the same,
as in the paper's algorithm 2.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adaptive_server, yogi_moment
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Yogi at the server."""
    options = config.fedyogi
    beta1, beta2 = options.betas
    combine = adaptive_server(
        beta=beta1,
        second_moment=partial(yogi_moment, beta=beta2),
        learning_rate=options.server_learning_rate,
        tau=options.adaptivity,
    )
    return Strategy("fedyogi", partial(adapter_layout, "fedyogi", config), combine, weights="clients")
