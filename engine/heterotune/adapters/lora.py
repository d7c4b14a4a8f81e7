"""LoRA branches as rows of a table of scopes: one U, V pair at every target linear. Imports no torch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from heterotune.adapters.layout import Activation, AdapterLayout, Branch, Scope, TensorSpec
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.fleet.model_types import ALL_LINEARS, ModelType, linear_path


@dataclass(frozen=True)
class LoraBranch:
    """One branch: y += gate · (alpha / rank) · U V x at every target linear of every layer.

    Attributes:
        label: The branch's name in tensor names and in the ledger's group, e.g. "width".
        scope: Over which clients it is averaged.
        adapter_rank: r.
        alpha: The branch is scaled by alpha / r.
        trained_gate: One trainable scalar for each site.
        activation: What is between V and U.
    """

    label: str
    scope: Scope
    adapter_rank: int
    alpha: float
    trained_gate: bool = False
    activation: Activation = "none"


def target_linears(targets: Literal["all-linear"] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the linears that get branches."""
    return ALL_LINEARS if targets == "all-linear" else tuple(targets)


def lora_table(
    model_type: ModelType,
    targets: Iterable[str],
    branch: LoraBranch,
    *,
    group_prefix: str,
    layers: Container[int] | None = None,
) -> Iterator[tuple[Branch, list[TensorSpec]]]:
    """Yield, for every site of a model type, the branch and its tensors.

    Tensors of scope "width" are keyed by the layer's number in the model that siblings were cut from, so that siblings
    of different depth share them; scope "type" is keyed by the model type. `layers` are the model type's own numbers of
    those that get the branch; None = all.
    """
    owner = {"width": f"width/{model_type.family}", "type": f"type/{model_type.name}"}.get(branch.scope, "")
    for layer, original in enumerate(model_type.original_layers):
        if layers is not None and layer not in layers:
            continue
        slot = original if branch.scope == "width" else layer
        for linear in targets:
            path = linear_path(layer, linear)
            shared = f"{owner}/{linear_path(slot, linear)}.{branch.label}" if owner else ""
            d_out, d_in = model_type.linear_shapes[linear]

            def tensor(
                letter: str, shape: tuple[int, ...], init: str, *, path=path, shared=shared, original=original
            ) -> TensorSpec:
                return TensorSpec(
                    name=f"{path}.{branch.label}.{letter}",
                    shape=shape,
                    scope=branch.scope,
                    key=shared and f"{shared}.{letter}",
                    group=f"{group_prefix}.{branch.label}",
                    depth_class=str(original),
                    init=init,
                )

            tensors = [
                tensor("U", (d_out, branch.adapter_rank), "zeros"),
                tensor("V", (branch.adapter_rank, d_in), "kaiming"),
            ]
            if branch.trained_gate:
                tensors.append(tensor("gate", (1,), "ones"))
            scale = branch.alpha / branch.adapter_rank
            gate = tensors[2].name if branch.trained_gate else None
            names = {"up": tensors[0].name, "down": tensors[1].name, "gate": gate}
            site = f"{model_type.family}/{linear_path(original, linear)}"
            yield Branch(path, **names, scale=scale, activation=branch.activation, site=site), tensors


def lora_layout(options: FedavgLoraOptions, model_type: ModelType) -> AdapterLayout:
    """Return the plain LoRA that the clients of one model type share."""
    rank = model_type.adapter_rank or options.adapter_rank
    branch = LoraBranch("lora", "type", rank, options.adapter_alpha)
    rows = list(lora_table(model_type, target_linears(options.targets), branch, group_prefix="lora"))
    tensors = tuple(tensor for _, tensors in rows for tensor in tensors)
    return AdapterLayout(model_type.name, tensors, tuple(site for site, _ in rows))


def owned_by_clients(layout: AdapterLayout) -> AdapterLayout:
    """Return a layout of which every client has its own, and sends nothing."""
    return replace(layout, tensors=tuple(replace(spec, scope="client", key="") for spec in layout.tensors))


def with_constant_down(layout: AdapterLayout) -> AdapterLayout:
    """Return a plain LoRA whose V keep their first values, which all clients of the model type draw from the seed."""
    downs = {branch.down for branch in layout.branches}
    tensors = tuple(
        replace(spec, scope="constant", group=f"{spec.group}.constant", trains=False) if spec.name in downs else spec
        for spec in layout.tensors
    )
    return replace(layout, tensors=tensors)
