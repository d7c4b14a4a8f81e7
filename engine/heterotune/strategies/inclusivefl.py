"""InclusiveFL on LoRA: siblings share layer by layer, but each keeps its last layer and learns it from deeper ones.

Source: Liu et al. (KDD 2022), by its formulas; its released code does not follow them in full. Our mapping to adapters:
layers of siblings meet by their number in the LLaMA that all were cut from. A model's last layer of L_i moves by
(1 - β) its own mean update + β the mean of the updates of layers L_i - 1 ... L_{i+1} - 1 of the next deeper sibling.
Differs: means of updates instead of the server's AdamW on gradients.

A client sends and gets Σ r (d_in + d_out) over its layers' targets, as in FedAvg on LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.exact import weighted_sum
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, fedavg


def make(config: RunConfig) -> Strategy:
    """Return LoRA shared by layer, and last layers that learn from deeper siblings."""
    combine_distilled = partial(combine, share=config.inclusivefl.distilled_share)
    return Strategy("inclusivefl", partial(adapter_layout, "inclusivefl", config), combine_distilled)


def combine(updates: Sequence[TypeUpdate], server: ServerRound, *, share: float) -> Combined:
    """Return FedAvg's mean of every tensor, and for last layers the mix with the next deeper sibling in the round."""
    combined = fedavg(updates, server)
    by_name = {update.model_type: update for update in updates}
    for shallow, deep in _next_deeper(server.layouts, by_name):
        own, other = server.layouts[shallow], server.layouts[deep]
        last, last_of_other = _num_layers(own) - 1, _num_layers(other) - 1
        for spec in own.tensors:
            if _layer(spec.name) != last:
                continue
            above = [
                by_name[deep].mean[key]
                for layer in range(last, last_of_other + 1)
                for key in _keys_at(other, spec.name, layer)
            ]
            shares = [1.0 - share, *[share / len(above)] * len(above)]
            combined.change[spec.key] = weighted_sum([by_name[shallow].mean[spec.key], *above], shares)
    return combined


def _next_deeper(layouts: Mapping[str, AdapterLayout], by_name: Mapping[str, TypeUpdate]) -> Iterator[tuple[str, str]]:
    """Yield every model type in the round with its next deeper sibling, if that is in the round, too."""
    families: dict[str, list[str]] = {}
    for name, layout in layouts.items():
        shared = next((spec.key.split("/")[1] for spec in layout.tensors if spec.scope == "width"), None)
        if shared is not None:
            families.setdefault(shared, []).append(name)
    for names in families.values():
        depths = sorted({_num_layers(layouts[name]) for name in names})
        for name in names:
            deeper = [depth for depth in depths if depth > _num_layers(layouts[name])]
            found = [o for o in names if deeper and o in by_name and _num_layers(layouts[o]) == deeper[0]]
            if found and name in by_name:
                yield name, found[0]


def _num_layers(layout: AdapterLayout) -> int:
    return 1 + max(_layer(spec.name) for spec in layout.tensors)


def _layer(name: str) -> int:
    """Return the layer that a LoRA tensor belongs to: layers.LAYER.BLOCK.LINEAR.BRANCH.LETTER."""
    return int(name.split(".")[1])


def _keys_at(layout: AdapterLayout, name: str, layer: int) -> list[str]:
    """Return the key of the tensor that is at another layer what a tensor is at its own, whatever its branch."""
    parts = name.split(".")
    return [
        spec.key
        for spec in layout.tensors
        if (found := spec.name.split("."))[1] == str(layer) and found[2:4] == parts[2:4] and found[-1] == parts[-1]
    ]
