"""FedAdam on LoRA: the server steps by Adam, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`. All clients weigh the same,
as in the paper's algorithm 2.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adam_moment, adaptive_server
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Adam at the server."""
    options = config.fedadam
    beta1, beta2 = options.betas
    combine = adaptive_server(
        beta=beta1,
        second_moment=partial(adam_moment, beta=beta2),
        learning_rate=options.server_learning_rate,
        tau=options.adaptivity,
    )
    return Strategy("fedadam", partial(adapter_layout, "fedadam", config), combine, weights="clients")
