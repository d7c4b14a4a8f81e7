"""FedAvg on LoRA, within each model type: the fleet with sharing across types switched off.

Source: FedAvg (McMahan et al., 2017) on LoRA tensors, also known as FedIT (Zhang et al., 2023). U and V are averaged
separately, as there: the mean of products differs from the product of means.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return one LoRA branch of scope "type"; all else is FedAvg's."""
    return Strategy("fedavg_lora", partial(adapter_layout, "fedavg_lora", config))
