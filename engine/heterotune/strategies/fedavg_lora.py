"""FedAvg on LoRA, within each model type: the fleet with sharing across types switched off.

Source: FedAvg (McMahan et al., 2017) on LoRA tensors, also known as FedIT (Zhang et al., 2023). U and V are averaged
separately, as there: the mean of products differs from the product of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.adapters.lora import lora_layout
from heterotune.aggregation.gram import Grams, whole_grams
from heterotune.config.schema import FedavgLoraOptions
from heterotune.fleet.model_types import ModelType
from heterotune.strategies.strategy import Combined, TypeUpdate, weighted_mean


@dataclass(frozen=True)
class FedavgLora:
    """One LoRA branch of scope "type"."""

    options: FedavgLoraOptions
    name: str = "fedavg_lora"

    def layout(self, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
        """Return a LoRA that the clients of one model type share."""
        return lora_layout(self.options, model_type)

    def combine(
        self, updates: Sequence[TypeUpdate], tensors: Mapping[str, TensorSpec], grams: Grams = whole_grams
    ) -> Combined:
        """Return the weighted mean of every tensor over its clients."""
        keys = {key for update in updates for key in update.mean}
        return Combined({key: weighted_mean(updates, key) for key in sorted(keys)})
