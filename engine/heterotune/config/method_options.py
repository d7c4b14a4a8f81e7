"""Sections that say how clients train and what a federated method does with their adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from heterotune.config.field_types import Count, CountOrZero, Decay, NotNegative, Positive, Section, Share

DEFAULT_LOCAL_STEPS = 10

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _check_targets(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """At least one layer, none twice."""
    if not targets:
        raise ValueError("leaves nothing to train. Name at least one linear layer, or write all-linear.")
    if targets != "all-linear" and len(set(targets)) < len(targets):
        raise ValueError("repeats a layer. Name each layer once.")
    return targets


Targets = Annotated[Literal["all-linear"] | tuple[LinearName, ...], AfterValidator(_check_targets)]


class LocalConfig(Section):
    """What one client does with its own rows in one round."""

    steps: Count | None = None
    """Optimiser steps of a client per round, at least 1; 10 when neither `steps` nor `epochs` is given."""
    epochs: Count | None = None
    """Passes over the client's own rows per round, at least 1; instead of `steps`."""
    batch_size: Count = 4
    """Rows per optimiser step and client, at least 1."""
    optimizer: Literal["sgd", "momentum", "adamw"] = "adamw"
    """Per-client optimiser; its state starts afresh each round."""
    learning_rate: Positive = 1e-3
    """Step length of the optimiser, above 0."""
    momentum: Decay = 0.9
    """Decay of the velocity, in [0, 1); used by `optimizer: momentum`."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and second moment, each in [0, 1); used by `optimizer: adamw`."""
    eps: Positive = 1e-8
    """Added to the root of the second moment, above 0; used by `optimizer: adamw`."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay per unit of learning rate, at least 0."""
    clip_norm: Positive | None = 1.0
    """Largest Euclidean norm of one client's gradient, above 0; null = no clipping."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the steps of a round."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises from 0 at the start of a round."""
    logit_adjustment: Share | None = None
    """Logit adjustment: training on labels allows for the client's own shares of them. The part of these shares that is
    spread equally over all labels, above 0 and at most 1, e.g. 0.2; needs data with labels. null = off."""

    @model_validator(mode="before")
    @classmethod
    def _fill_steps(cls, given: Any) -> Any:
        """Neither steps nor epochs: 10 steps."""
        if isinstance(given, dict) and given.get("steps") is None and given.get("epochs") is None:
            return {**given, "steps": DEFAULT_LOCAL_STEPS}
        return given

    @model_validator(mode="after")
    def _check_together(self) -> LocalConfig:
        """What no single field can know."""
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps = {self.steps} and epochs = {self.epochs} exclude each other. Set one to null.")
        if self.steps is not None and self.warmup_steps > self.steps:
            text = f"warmup_steps = {self.warmup_steps} is more than the {self.steps} steps of a round"
            raise ValueError(f"{text}. Lower it, or raise steps.")
        return self


class FedavgLoraOptions(Section):
    """FedAvg of plain LoRA within each model type; nothing is shared between types."""

    adapter_rank: Count = 8
    """Rank of the LoRA branch of a layer, at least 1; a fleet entry may override it."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; the branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list as in `heterotune`."""


class FedavgFullOptions(Section):
    """FedAvg of whole models within each model type: every parameter trains and travels; adapter ranks do not apply."""

    learning_rate_scale: Positive = 1.0
    """Learning rate of every parameter in units of local.learning_rate, above 0; whole models want less than LoRA."""
