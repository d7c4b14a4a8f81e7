"""Options of the usual baselines on plain LoRA: each is FedAvg's LoRA and what the method adds to it."""

from __future__ import annotations

from heterotune.config.field_types import Decay, NotNegative, Positive
from heterotune.config.method_options import FedavgLoraOptions


class LocalOnlyOptions(FedavgLoraOptions):
    """Every client trains LoRA of its own; nothing travels."""


class CentralisedOptions(FedavgLoraOptions):
    """One LoRA for each model type, trained on the rows of all its clients in one place: an upper bound."""


class FedproxOptions(FedavgLoraOptions):
    """FedAvg of LoRA whose clients are pulled back to the common values."""

    mu: NotNegative = 0.01
    """Weight of the penalty mu / 2 · |theta - theta_common|², in nats per token, at least 0; 0 = FedAvg."""


class ScaffoldOptions(FedavgLoraOptions):
    """FedAvg of LoRA whose clients correct every step by control variates."""

    server_learning_rate: Positive = 1.0
    """Factor on the mean update at the server, above 0."""


class FfaLoraOptions(FedavgLoraOptions):
    """LoRA whose V is frozen at random values, the same for all clients of a model type; only U trains and travels."""


class FedavgmOptions(FedavgLoraOptions):
    """FedAvg of LoRA with momentum at the server."""

    momentum: Decay = 0.9
    """Decay of the mean update over rounds, in [0, 1); 0 = FedAvg."""
    server_learning_rate: Positive = 1.0
    """Factor on the decayed mean at the server, above 0."""


class FedadagradOptions(FedavgLoraOptions):
    """FedAvg of LoRA with Adagrad at the server."""

    server_learning_rate: Positive = 1e-3
    """Step length of the server's optimiser, above 0."""
    momentum: Decay = 0.0
    """Decay of the mean update over rounds (beta_1), in [0, 1)."""
    adaptivity: Positive = 1e-3
    """Added to the root of the second moment, whose first value is its square (tau), above 0."""


class FedadamOptions(FedavgLoraOptions):
    """FedAvg of LoRA with Adam at the server."""

    server_learning_rate: Positive = 1e-3
    """Step length of the server's optimiser, above 0."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """Decay of the first and second moment over rounds, each in [0, 1)."""
    adaptivity: Positive = 1e-3
    """Added to the root of the second moment, whose first value is its square (tau), above 0."""


class FedyogiOptions(FedadamOptions):
    """FedAvg of LoRA with Yogi at the server."""
