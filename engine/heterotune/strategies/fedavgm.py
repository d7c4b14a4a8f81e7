"""FedAvgM on LoRA: FedAvg whose server lets the mean update decay slowly over rounds.

Source: Hsu et al., Measuring the Effects of Non-Identical Data Distribution (2019); see `server_optimizers`.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.server_optimizers import momentum_server
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with momentum at the server; clients weigh by their rows."""
    options = config.fedavgm
    combine = momentum_server(beta=options.momentum, learning_rate=options.server_learning_rate)
    return Strategy("fedavgm", partial(adapter_layout, "fedavgm", config), combine)
