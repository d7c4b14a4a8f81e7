"""FedAdagrad on LoRA: the server steps by Adagrad, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`.
"""

from __future__ import annotations

from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adagrad_moment, adaptive_strategy
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Adagrad at the server."""
    return adaptive_strategy(config, "fedadagrad", beta=config.fedadagrad.momentum, second_moment=adagrad_moment)
