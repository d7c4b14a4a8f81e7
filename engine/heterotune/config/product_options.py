"""Sections of the methods that combine LoRA as products, or average parts of larger common tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heterotune.config.field_types import Flag, NotNegative, Number
from heterotune.config.method_options import FedavgLoraOptions


class FedexLoraOptions(FedavgLoraOptions):
    """FedEx-LoRA: FedAvg of LoRA, and what the means of U and V miss goes into the frozen weights."""


class FloraOptions(FedavgLoraOptions):
    """FLoRA: the clients' LoRAs, stacked, are merged into the frozen weights; every round begins with a fresh LoRA."""


class FlexloraOptions(FedavgLoraOptions):
    """FlexLoRA: siblings share the mean of their products, cut to each model type's own rank."""


class HetloraOptions(FedavgLoraOptions):
    """HETLoRA: siblings share LoRA of the largest rank among them; each holds the first components of it."""

    weights: Literal["sparsity", "size"] = "sparsity"
    """What a client weighs: at each site the norm of its product U V there, or its rows."""
    regulariser: NotNegative = 1e-3
    """Factor on |U V|'s last components in a client's loss, at least 0; 0 = no regulariser."""
    kept_share: Annotated[Number, Field(gt=0, le=1)] = 0.99
    """Share of a client's components that are not regularised, rounded down to whole ones; above 0 and at most 1."""
    prune: Flag = False
    """Send 0 for the regularised components of a client whose training made them smaller."""


class HeteroflOptions(FedavgLoraOptions):
    """HeteroFL on LoRA: each model type trains the first components of larger common tensors."""

    share: Literal["rank", "width"] = "rank"
    """Who shares what: siblings the first components of the rank, or all model types those and the first coordinates of
    the layers' widths, layers by relative depth."""


class FedrolexOptions(FedavgLoraOptions):
    """FedRolex on LoRA: as HeteroFL among siblings, and the components that a model type trains roll on every round."""
