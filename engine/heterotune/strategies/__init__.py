"""Federated methods, one file each. None of them knows how many ranks there are."""

from __future__ import annotations

from heterotune.config.schema import RunConfig
from heterotune.strategies.fedavg_full import FedavgFull
from heterotune.strategies.fedavg_lora import FedavgLora
from heterotune.strategies.heterotune import Heterotune
from heterotune.strategies.strategy import Strategy


def make_strategy(name: str, config: RunConfig) -> Strategy:
    """Return the strategy that a run file names, with its own section of options."""
    if name == "heterotune":
        return Heterotune(config.heterotune)
    if name == "fedavg_full":
        return FedavgFull(config.fedavg_full)
    return FedavgLora(config.fedavg_lora)
