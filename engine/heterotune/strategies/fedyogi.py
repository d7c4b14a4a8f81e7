"""FedYogi on LoRA: the server steps by Yogi, with the mean update as its gradient.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021); see `server_optimizers`.
"""

from __future__ import annotations

from functools import partial

from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import adaptive_strategy, yogi_moment
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with Yogi at the server."""
    beta1, beta2 = config.fedyogi.betas
    return adaptive_strategy(config, "fedyogi", beta=beta1, second_moment=partial(yogi_moment, beta=beta2))
