"""FedAdagrad on LoRA: the server steps by Adagrad, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`. All clients weigh the same,
as in the paper's algorithm 2.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adagrad_moment, adaptive_server
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Adagrad at the server."""
    options = config.fedadagrad
    combine = adaptive_server(
        beta=options.momentum,
        second_moment=adagrad_moment,
        learning_rate=options.server_learning_rate,
        tau=options.adaptivity,
    )
    return Strategy("fedadagrad", partial(adapter_layout, "fedadagrad", config), combine, weights="clients")
