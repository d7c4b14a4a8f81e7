"""FFA-LoRA: V is frozen at random values, and only U is trained, sent and averaged.

Source: Sun et al., Improving LoRA in Privacy-preserving Federated Learning (ICLR 2024, arXiv:2403.12313). All clients
of a model type draw the same V from the run's seed, so the mean of U V is exact, (mean of U) V, and the upload is that
of U alone. It usually wants a higher `local.learning_rate` than LoRA whose both factors train.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return one LoRA branch of scope "type" whose V is of scope "constant"; all else is FedAvg's."""
    return Strategy("ffa_lora", partial(adapter_layout, "ffa_lora", config))
