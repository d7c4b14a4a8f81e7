"""DeMA's table of scopes: the branches of a model type and who shares each of them. Imports no torch.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's formulas were not readable to us. Siblings
share their LoRA by original layer (scope "width"); the branch at the head is all types' (scope "fleet") or each one's
own, as the run's data decides (config/heterotune_options.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heterotune.adapters.layout import AdapterLayout, HeadBranch, TensorSpec
from heterotune.adapters.lora import LoraBranch, lora_table, target_linears
from heterotune.config.heterotune_options import HeterotuneOptions, settled_among
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import ModelType

HEAD_CORE = "head.S"
FRAME_GROUP = "dema.head.frame"
"""The ledger's name of a type's frozen maps at the head."""


def with_head_rank(config: RunConfig, fleet: Sequence[ModelType]) -> RunConfig:
    """Return the run with the rank that `heterotune.head_rank: auto` means for these models; see `settled`."""
    if config.heterotune.head_rank != "auto":
        return config
    narrowest = min(model_type.width for model_type in fleet)
    return config.model_copy(update={"heterotune": settled_among(dict(config), narrowest=narrowest)})


def dema_layout(options: HeterotuneOptions, model_type: ModelType, fleet: Sequence[ModelType]) -> AdapterLayout:
    """Return the adapter of a model type: LoRA by width or type, the shared head, personal branches if asked for.

    Args:
        options: Ranks, scopes and targets.
        model_type: Whose adapter.
        fleet: All model types: "width" needs a sibling.
    """
    targets, depth = target_linears(options.targets), model_type.num_layers
    layers = range(depth)[0 if options.lora_layers == "all" else -options.lora_layers or depth :]
    rows = [
        row
        for branch in _branches(options, model_type, fleet)
        for row in lora_table(model_type, targets, branch, group_prefix="dema", layers=layers)
    ]
    tensors = [tensor for _, tensors in rows for tensor in tensors]
    head = None
    if options.head_rank:
        head = HeadBranch(HEAD_CORE, options.head_rank, options.head_basis, options.head_outputs)
        tensors.append(_head_core(options, model_type, fleet))
    return AdapterLayout(model_type.name, tuple(tensors), tuple(site for site, _ in rows), head)


def _branches(options: HeterotuneOptions, model_type: ModelType, fleet: Sequence[ModelType]) -> Iterator[LoraBranch]:
    """Yield the LoRA branches of a model type; "width" needs a sibling, else it is "type"."""
    rank = model_type.adapter_rank or options.adapter_rank
    has_siblings = _has_siblings(model_type, fleet)
    scopes = {"width": ("width",), "type": ("type",), "split": ("width", "type")}[options.lora_scope]
    if not has_siblings:
        scopes = ("type",)
    common = {"trained_gate": options.gates == "trained", "activation": options.activation}
    for scope in scopes:
        yield LoraBranch(scope, scope, rank // len(scopes), options.adapter_alpha / len(scopes), **common)
    if options.personal_rank:
        yield LoraBranch("client", "client", options.personal_rank, options.adapter_alpha, **common)


def _has_siblings(model_type: ModelType, fleet: Sequence[ModelType]) -> bool:
    return sum(other.family == model_type.family for other in fleet) > 1


def _head_core(options: HeterotuneOptions, model_type: ModelType, fleet: Sequence[ModelType]) -> TensorSpec:
    """Return S: small, so one second moment for the whole of it; zero, so that the branch starts as nothing.

    Its scope is the only difference between a shared branch and a type's own: the frozen maps are the same.
    """
    scope = options.head_scope
    if scope == "width" and not _has_siblings(model_type, fleet):
        scope = "type"
    owner = {"fleet": "fleet", "width": f"width/{model_type.family}", "type": f"type/{model_type.name}"}[scope]
    return TensorSpec(
        name=HEAD_CORE,
        shape=(options.head_rank + 1, options.head_basis),
        scope=scope,
        key=f"{owner}/{HEAD_CORE}",
        group="dema.head",
        depth_class="head",
        learning_rate_scale=options.head_learning_rate_scale,
        one_second_moment=True,
    )
