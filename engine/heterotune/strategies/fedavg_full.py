"""FedAvg of whole models, within each model type: every client trains all parameters of its own LLaMA.

Source: FedAvg (McMahan et al., 2017). What trains and travels is the difference to the pre-trained weights, so the
average of differences is the average of the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterotune.adapters.dense import full_layout
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.gram import Grams, whole_grams
from heterotune.config.schema import FedavgFullOptions
from heterotune.fleet.model_types import ModelType
from heterotune.strategies.strategy import Combined, TypeUpdate, weighted_mean


@dataclass(frozen=True)
class FedavgFull:
    """A dense difference to every parameter, of scope "type"."""

    options: FedavgFullOptions
    name: str = "fedavg_full"

    def layout(self, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
        """Return the differences to all parameters, which the clients of one model type share."""
        return full_layout(self.options, model_type)

    def combine(
        self, updates: Sequence[TypeUpdate], tensors: Mapping[str, TensorSpec], grams: Grams = whole_grams
    ) -> Combined:
        """Return the weighted mean of every tensor over its clients."""
        keys = {key for update in updates for key in update.mean}
        return Combined({key: weighted_mean(updates, key) for key in sorted(keys)})
