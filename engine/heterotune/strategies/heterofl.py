"""HeteroFL on LoRA: model types train the first components of common tensors, averaged over those that have them.

`share: rank` (default): siblings share LoRA of the largest rank r_max among them, layers by their original number; a
type of rank r holds its first r components. `share: width`: all model types share LoRA of the largest shapes, layers by
relative depth; a type holds its first r components and the first coordinates of every width. Coordinates of models that
were pre-trained apart have no relation to one another, so that is for comparison.

All use one scale, alpha / r_max. An element that no client of the round covers stays as it is.

Bytes: up and down as `fedavg_lora`: a client sends and gets its part.

Source: HeteroFL (ICLR 2021), carried over to adapters by us. Differs: rank or width of LoRA instead of cropped models;
no scaler of activations, because the frozen weights do the work of a cropped model's normalisation.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy
from heterotune.strategies.windowed import combine_covered


def make(config: RunConfig) -> Strategy:
    """Return parts of common LoRA tensors, averaged where they are covered."""
    return Strategy("heterofl", partial(adapter_layout, "heterofl", config), combine_covered)
