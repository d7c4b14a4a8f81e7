"""LoRA of which model types of unequal rank or width hold parts: rows of a table of scopes. Imports no torch.

The scale is one for all that share, alpha / (the largest rank among them): a component then means the same in every
model type, and what a part adds to a layer is its part of what the whole adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from heterotune.adapters.layout import AdapterLayout, Branch, TensorSpec
from heterotune.adapters.lora import LoraBranch, lora_table, target_linears
from heterotune.adapters.window import Window
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.fleet.model_types import ModelType, linear_path

_RANK_AXIS = {"U": 1, "V": 0}


def windowed_lora_layout(
    options: FedavgLoraOptions,
    model_type: ModelType,
    fleet: Sequence[ModelType],
    *,
    share: Literal["rank", "width"] = "rank",
    rolls: bool = False,
) -> AdapterLayout:
    """Return a model type's part of the LoRA of the largest.

    Args:
        options: The rank of model types that name none, alpha and targets.
        model_type: Whose adapter.
        fleet: All model types.
        share: "rank" = siblings, by original layer; "width" = all model types, by relative depth.
        rolls: The window moves on by one component a round.
    """
    kin = [other for other in fleet if share == "width" or other.family == model_type.family]
    full_rank = max(other.adapter_rank or options.adapter_rank for other in kin)
    rank = model_type.adapter_rank or options.adapter_rank
    branch = LoraBranch("lora", "width" if share == "rank" else "fleet", rank, options.adapter_alpha)
    targets = target_linears(options.targets)
    rows = lora_table(model_type, targets, branch, group_prefix="lora")
    branches: list[Branch] = []
    tensors: list[TensorSpec] = []
    for (slot, linear), (site, specs) in zip(_slots(model_type, kin, targets, share), rows, strict=True):
        branches.append(replace(site, scale=options.adapter_alpha / full_rank))
        full = {
            "U": (max(other.linear_shapes[linear][0] for other in kin), full_rank),
            "V": (full_rank, max(other.linear_shapes[linear][1] for other in kin)),
        }
        for spec in specs:
            letter = spec.name[-1]
            window = Window(full[letter], _RANK_AXIS[letter] if rolls else None)
            key = spec.key or f"fleet/{linear_path(slot, linear)}.lora.{letter}"
            tensors.append(replace(spec, key=key, depth_class=str(slot), window=window))
    return AdapterLayout(model_type.name, tuple(tensors), tuple(branches))


def _slots(
    model_type: ModelType, kin: Sequence[ModelType], targets: Sequence[str], share: str
) -> Iterator[tuple[int, str]]:
    """Yield which layer of those that share a layer's linear is, and the linear; in the order of `lora_table`.

    Relative depth counts in layers of the deepest model type, so that no two layers of one model meet.
    """
    deepest = max(other.num_layers for other in kin)
    for layer, original in enumerate(model_type.original_layers):
        slot = original if share == "rank" else layer * deepest // model_type.num_layers
        for linear in targets:
            yield slot, linear
