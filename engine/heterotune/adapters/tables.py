"""Which table of tensors each federated method puts on a model type. Imports no torch, so that a plan needs none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from heterotune.adapters.base_sites import redrawn_every_round, with_base_change
from heterotune.adapters.control_variates import with_control_variates
from heterotune.adapters.dema import dema_layout, with_head_rank
from heterotune.adapters.dense import full_layout
from heterotune.adapters.depth import depthfl_layout, inclusivefl_layout
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.lora import lora_layout, owned_by_clients, with_constant_down
from heterotune.adapters.prototypes import fedproto_layout
from heterotune.adapters.windowed_lora import windowed_lora_layout
from heterotune.config.field_types import StrategyName
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import ModelType

Fleet = Sequence[ModelType]
Table = Callable[[RunConfig, ModelType, Fleet], AdapterLayout]

_TABLES: Mapping[StrategyName, Table] = MappingProxyType(
    {
        "heterotune": lambda run, mine, fleet: dema_layout(with_head_rank(run, fleet).heterotune, mine, fleet),
        "fedavg_full": lambda run, mine, fleet: full_layout(run.fedavg_full, mine),
        "local_only": lambda run, mine, fleet: owned_by_clients(lora_layout(run.local_only, mine)),
        "scaffold": lambda run, mine, fleet: with_control_variates(lora_layout(run.scaffold, mine)),
        "ffa_lora": lambda run, mine, fleet: with_constant_down(lora_layout(run.ffa_lora, mine)),
        "fedex_lora": lambda run, mine, fleet: with_base_change(lora_layout(run.fedex_lora, mine), mine),
        "flora": lambda run, mine, fleet: redrawn_every_round(with_base_change(lora_layout(run.flora, mine), mine)),
        "hetlora": lambda run, mine, fleet: windowed_lora_layout(run.hetlora, mine, fleet),
        "heterofl": lambda run, mine, fleet: windowed_lora_layout(run.heterofl, mine, fleet, share=run.heterofl.share),
        "fedrolex": lambda run, mine, fleet: windowed_lora_layout(run.fedrolex, mine, fleet, rolls=True),
        "depthfl": lambda run, mine, fleet: depthfl_layout(run.depthfl, mine, fleet),
        "inclusivefl": lambda run, mine, fleet: inclusivefl_layout(run.inclusivefl, mine, fleet),
        "fedproto": lambda run, mine, fleet: fedproto_layout(run.fedproto, mine),
    }
)
"""Methods with a table of their own; all others put plain LoRA of scope "type" on every model type."""


def adapter_layout(strategy: StrategyName, config: RunConfig, model_type: ModelType, fleet: Fleet) -> AdapterLayout:
    """Return a model type's adapter under a method of the run file: what `Strategy.layout` of that method returns."""
    if strategy in _TABLES:
        return _TABLES[strategy](config, model_type, fleet)
    return lora_layout(getattr(config, strategy), model_type)
