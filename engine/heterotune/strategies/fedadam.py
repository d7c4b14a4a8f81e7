"""FedAdam on LoRA: the server steps by Adam, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`.
"""

from __future__ import annotations

from functools import partial

from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adam_moment, adaptive_strategy
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Adam at the server."""
    beta1, beta2 = config.fedadam.betas
    return adaptive_strategy(config, "fedadam", beta=beta1, second_moment=partial(adam_moment, beta=beta2))
