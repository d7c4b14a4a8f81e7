"""LoRA on siblings of different depth, for methods that differ in which layers are shared. Imports no torch.

Siblings are model types that were cut from one LLaMA; their layers meet by their number in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.lora import LoraBranch, lora_table, target_linears
from heterotune.config.heterogeneous_options import DepthflOptions, InclusiveflOptions
from heterotune.fleet.model_types import ModelType


def siblings_by_depth(model_type: ModelType, fleet: Sequence[ModelType]) -> list[ModelType]:
    """Return the model types of one family, itself included, shallow ones first."""
    family = [other for other in fleet if other.family == model_type.family]
    return sorted(family, key=lambda other: (other.num_layers, other.index))


def depthfl_layout(options: DepthflOptions, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
    """Return LoRA that siblings share layer by layer, with an exit where each shallower sibling ends."""
    siblings = siblings_by_depth(model_type, fleet)
    depths = {other.num_layers for other in siblings if other.num_layers < model_type.num_layers}
    shared = range(model_type.num_layers) if len(siblings) > 1 else ()
    layout = _layout(options, model_type, shared)
    return AdapterLayout(
        layout.model_type, layout.tensors, layout.branches, exits=tuple(depth - 1 for depth in sorted(depths))
    )


def inclusivefl_layout(options: InclusiveflOptions, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
    """Return LoRA that siblings share layer by layer, but for each model type's last layer, which is its own."""
    has_siblings = len(siblings_by_depth(model_type, fleet)) > 1
    return _layout(options, model_type, range(model_type.num_layers - 1) if has_siblings else ())


def _layout(
    options: DepthflOptions | InclusiveflOptions, model_type: ModelType, shared: Sequence[int]
) -> AdapterLayout:
    """Return LoRA of scope "width" in some layers and of scope "type" in the others."""
    rank = model_type.adapter_rank or options.adapter_rank
    own = [layer for layer in range(model_type.num_layers) if layer not in shared]
    rows = [
        row
        for scope, layers in (("width", shared), ("type", own))
        for row in lora_table(
            model_type,
            target_linears(options.targets),
            LoraBranch(scope, scope, rank, options.adapter_alpha),
            group_prefix="lora",
            layers=layers,
        )
    ]
    tensors = tuple(tensor for _, tensors in rows for tensor in tensors)
    return AdapterLayout(model_type.name, tensors, tuple(site for site, _ in rows))
