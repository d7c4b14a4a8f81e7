"""FedProto's table of scopes: LoRA that never leaves a client, prototypes that all share. Imports no torch."""

from __future__ import annotations

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.adapters.lora import LoraBranch, lora_table, target_linears
from heterotune.config.heterogeneous_options import FedprotoOptions
from heterotune.fleet.model_types import ModelType

PROJECTION = "feature.projection"
OWN_PROJECTION = "feature.own"
PROTOTYPES = "prototype.mean"
SEEN = "prototype.seen"


def fedproto_layout(options: FedprotoOptions, model_type: ModelType) -> AdapterLayout:
    """Return a personal LoRA, a projection to features of one width, and a prototype for every class.

    The projection is the sum of a constant, the same for all clients of a model type, and a part that a client trains;
    so features of one model type mean the same from the first round on.
    """
    rank = model_type.adapter_rank or options.adapter_rank
    branch = LoraBranch("client", "client", rank, options.adapter_alpha)
    rows = list(lora_table(model_type, target_linears(options.targets), branch, group_prefix="lora"))
    shape = (options.feature_width, model_type.width)
    classes = 1 if options.num_classes == "auto" else options.num_classes  # checks come before the data is read
    owner = f"type/{model_type.name}/{PROJECTION}"
    tensors = (
        *(tensor for _, tensors in rows for tensor in tensors),
        TensorSpec(PROJECTION, shape, "constant", owner, "proto.constant", "head", "kaiming", trains=False),
        TensorSpec(OWN_PROJECTION, shape, "client", "", "proto.own", "head"),
        _shared(PROTOTYPES, (classes, options.feature_width)),
        _shared(SEEN, (classes,)),
    )
    return AdapterLayout(model_type.name, tensors, tuple(site for site, _ in rows))


def _shared(name: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return what travels: no step changes it, a client writes into it when it has made all its steps."""
    return TensorSpec(name, shape, "fleet", f"fleet/{name}", "proto.prototypes", "head", trains=False)
