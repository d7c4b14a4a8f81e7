"""FedAvg of whole models, within each model type: every client trains all parameters of its own LLaMA.

Source: FedAvg (McMahan et al., 2017). What trains and travels is the difference to the pre-trained weights, so the
average of differences is the average of the models.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return a dense difference to every parameter, of scope "type"; all else is FedAvg's."""
    return Strategy("fedavg_full", partial(adapter_layout, "fedavg_full", config))
