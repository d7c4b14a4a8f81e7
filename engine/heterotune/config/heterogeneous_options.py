"""Options of methods that other authors made for fleets of unlike models: depth, and prototypes."""

from __future__ import annotations

from typing import Literal

from heterotune.config.field_types import Count, NotNegative, Positive, Section, Share
from heterotune.config.method_options import Targets


class DepthflOptions(Section):
    """DepthFL on LoRA: siblings share layer by layer, deep models also answer where shallow ones end."""

    adapter_rank: Count = 8
    """Rank of the LoRA branch of a layer, at least 1; the same for all siblings."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; the branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list as in `heterotune`."""
    distillation: NotNegative = 1.0
    """Weight with which a model's answers learn from one another at the end of the ramp, at least 0."""
    ramp_rounds: Count = 300
    """Rounds over which that weight rises, as exp(-5 (1 - round / ramp)^2), at least 1."""


class InclusiveflOptions(Section):
    """InclusiveFL on LoRA: siblings share layer by layer, each keeps its last layer and learns it from deeper ones."""

    adapter_rank: Count = 8
    """Rank of the LoRA branch of a layer, at least 1; the same for all siblings."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; the branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list as in `heterotune`."""
    distilled_share: Share = 0.2
    """Share of a last layer's update that comes from the next deeper sibling's layers above it, above 0, at most 1."""


class FedprotoOptions(Section):
    """FedProto on LoRA: clients keep their models to themselves and send the mean feature of each of their classes."""

    adapter_rank: Count = 8
    """Rank of the LoRA branch of a layer, at least 1; a fleet entry may override it."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; the branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list as in `heterotune`."""
    feature_width: Count = 64
    """Elements of a feature, in which model types of any width meet, at least 1."""
    num_classes: Count | Literal["auto"] = "auto"
    """Classes of the data, at least 1; "auto" = as many as the data's labels."""
    prototype_weight: NotNegative = 1.0
    """Weight of the squared distance between a row's feature and the prototype of its class, at least 0."""
