"""LoRA whose frozen linears the server changes, too: what that makes of a table of scopes. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from heterotune.adapters.layout import AdapterLayout, BaseSite
from heterotune.fleet.model_types import ModelType


def with_base_change(layout: AdapterLayout, model_type: ModelType) -> AdapterLayout:
    """Return a layout whose server changes the frozen linear under every branch."""
    base = tuple(
        BaseSite(
            branch.module,
            f"base/{model_type.name}/{branch.module}",
            model_type.linear_shapes[branch.module.rpartition(".")[2]],
        )
        for branch in layout.branches
    )
    return replace(layout, base=base)


def redrawn_every_round(layout: AdapterLayout) -> AdapterLayout:
    """Return a layout whose tensors begin every round with fresh values, which nobody downloads."""
    return replace(layout, tensors=tuple(replace(spec, redrawn=True) for spec in layout.tensors))
