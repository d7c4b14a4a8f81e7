"""Which table of tensors each federated method puts on a model type. Imports no torch, so that a plan needs none."""

from __future__ import annotations

from collections.abc import Sequence

from heterotune.adapters.control_variates import with_control_variates
from heterotune.adapters.dema import dema_layout
from heterotune.adapters.dense import full_layout
from heterotune.adapters.depth import depthfl_layout, inclusivefl_layout
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.lora import lora_layout, owned_by_clients, with_constant_down
from heterotune.adapters.prototypes import fedproto_layout
from heterotune.config.field_types import StrategyName
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import ModelType


def adapter_layout(
    strategy: StrategyName, config: RunConfig, model_type: ModelType, fleet: Sequence[ModelType]
) -> AdapterLayout:
    """Return a model type's adapter under a method of the run file: what `Strategy.layout` of that method returns.

    A method with a table of its own has a line here; all others put plain LoRA on every model type.
    """
    if strategy == "heterotune":
        return dema_layout(config.heterotune, model_type, fleet)
    if strategy == "fedavg_full":
        return full_layout(config.fedavg_full, model_type)
    if strategy == "depthfl":
        return depthfl_layout(config.depthfl, model_type, fleet)
    if strategy == "inclusivefl":
        return inclusivefl_layout(config.inclusivefl, model_type, fleet)
    if strategy == "fedproto":
        return fedproto_layout(config.fedproto, model_type)
    plain = lora_layout(getattr(config, strategy), model_type)
    if strategy == "local_only":
        return owned_by_clients(plain)
    if strategy == "ffa_lora":
        return with_constant_down(plain)
    if strategy == "scaffold":
        return with_control_variates(plain)
    return plain
