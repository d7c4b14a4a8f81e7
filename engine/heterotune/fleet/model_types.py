"""The model types of a fleet: shapes, depth and kinship, by arithmetic on their configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from heterotune.config.explain import shown
from heterotune.config.field_types import LARGEST_COUNT
from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.checkpoint_files import choose_weights
from heterotune.fleet.model_source import ModelSource, resolve_model
from heterotune.fleet.parameter_shapes import (
    ALL_LINEARS,
    ATTENTION_LINEARS,
    MLP_LINEARS,
    linear_path,
    name_in_lm,
    num_layer_elements,
    parameter_shapes,
)

__all__ = ["ALL_LINEARS", "ATTENTION_LINEARS", "MLP_LINEARS", "ModelType", "linear_path", "read_model_types"]
MISTRAL_KEY_HEADS = 8  # MistralConfig's default
DEEPEST = 100_000  # layers; each has an entry in tables


@dataclass(frozen=True)
class ModelType:
    """One LLaMA size in the fleet.

    Attributes:
        name: Its name in the run file.
        index: Its place in the fleet; model-type order everywhere.
        source: Where the weights are.
        num_clients: Clients that own this model.
        width: Hidden size d_m.
        num_layers: Depth L_m.
        vocab_size: Size of the output space.
        original_layers: For each layer, its number in the model that siblings were cut from.
        family: Name of the model type that its siblings were cut from (its own name if it is no sibling).
        linear_shapes: Name of a target linear -> (d_out, d_in), the same in every layer.
        num_parameters: Parameters of the whole model; tied embeddings count once.
        adapter_rank: Rank of this type's LoRA branches if the run file overrides the strategy's, else None.
    """

    name: str
    index: int
    source: ModelSource
    num_clients: int
    width: int
    num_layers: int
    vocab_size: int
    original_layers: tuple[int, ...]
    family: str
    linear_shapes: dict[str, tuple[int, int]]
    num_parameters: int
    adapter_rank: int | None = None


def read_model_types(
    fleet: tuple[FleetEntry, ...], resolve: Callable[[str], ModelSource] = resolve_model
) -> tuple[ModelType, ...]:
    """Resolve every entry of the fleet.

    Args:
        fleet: The entries.
        resolve: Finds a model; `describe_model` where a configuration is enough.

    Raises:
        ModelError: If a model is missing or no LLaMA, or siblings do not fit together; all problems in one message.
    """
    problems: list[str] = []
    model_types: list[ModelType] = []
    for index, entry in enumerate(fleet):
        try:
            model_types.append(_model_type(index, entry, resolve(entry.model)))
        except ModelError as error:
            problems.append(f"fleet.{index} ({entry.name}): {error}")
    problems += _sibling_problems(fleet, model_types)
    if problems:
        raise ModelError("\n".join(problems))
    return tuple(model_types)


def _model_type(index: int, entry: FleetEntry, source: ModelSource) -> ModelType:
    llama = source.llama
    width, inner, vocab_size = (_count(source, key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, num_layers = _count(source, "num_attention_heads"), _count(source, "num_hidden_layers", DEEPEST)
    head_dim = _count_or(source, "head_dim", max(1, width // heads))
    query_width = heads * head_dim
    key_width = _count_or(source, "num_key_value_heads", _default_key_heads(source, heads)) * head_dim
    shapes = {
        "q_proj": (query_width, width),
        "k_proj": (key_width, width),
        "v_proj": (key_width, width),
        "o_proj": (width, query_width),
        "gate_proj": (inner, width),
        "up_proj": (inner, width),
        "down_proj": (width, inner),
    }
    embeddings = vocab_size * width * (1 if llama.get("tie_word_embeddings", False) else 2)
    if source.weights:
        names = {name_in_lm(path): shape for path, shape in parameter_shapes(llama, shapes, num_layers, vocab_size)}
        weights = choose_weights(source.reference, source.folder or Path(), source.weights, names)
        source = replace(source, weights=weights)
    return ModelType(
        name=entry.name,
        index=index,
        source=source,
        num_clients=entry.clients,
        width=width,
        num_layers=num_layers,
        vocab_size=vocab_size,
        original_layers=tuple(entry.layers or _original_layers(source) or range(num_layers)),
        family=entry.family,
        linear_shapes=shapes,
        num_parameters=num_layers * num_layer_elements(llama, shapes) + embeddings + width,
        adapter_rank=entry.adapter_rank,
    )


def _count(source: ModelSource, key: str, largest: int = LARGEST_COUNT) -> int:
    """Return a count of the model's configuration, which may be anybody's file."""
    if key not in source.llama:
        raise ModelError(f"{source.reference}: its config.json has no {key!r}.")
    value = source.llama[key]
    if type(value) is not int or not 1 <= value <= largest:
        raise ModelError(f"{source.reference}: {key} = {shown(value)} is no integer from 1 to {largest}.")
    return value


def _count_or(source: ModelSource, key: str, default: int) -> int:
    """Return a count that may be missing or null."""
    return default if source.llama.get(key) is None else _count(source, key)


def _default_key_heads(source: ModelSource, heads: int) -> int:
    """Return the key heads of a configuration that is silent: Mistral's class has 8, but null means one per query."""
    silent = "num_key_value_heads" not in source.llama
    return MISTRAL_KEY_HEADS if silent and source.llama.get("model_type") == "mistral" else heads


def _original_layers(source: ModelSource) -> list[int] | None:
    """Return the numbers of a pruned model's layers in the whole one, None if it says nothing of them."""
    layers = source.llama.get("original_layers")
    if layers is None:
        return None
    is_list = isinstance(layers, list) and all(type(layer) is int and 0 <= layer < DEEPEST for layer in layers)
    if not is_list or any(a >= b for a, b in pairwise(layers)):
        told = f"original_layers = {shown(layers)} is no strictly increasing list of layer numbers"
        raise ModelError(f"{source.reference}: {told} below {DEEPEST}.")
    return layers


def _sibling_problems(fleet: Sequence[FleetEntry], model_types: Sequence[ModelType]) -> list[str]:
    by_name = {model_type.name: model_type for model_type in model_types}
    says_layers = {entry.name: entry.layers is not None for entry in fleet}
    problems = []
    for sibling in model_types:
        base = by_name.get(sibling.family)
        says = says_layers[sibling.name] or "original_layers" in sibling.source.llama
        if len(sibling.original_layers) != sibling.num_layers:
            problems.append(
                f"{sibling.name}: {len(sibling.original_layers)} original layer numbers for {sibling.num_layers} "
                "layers. Give fleet.N.layers one number per layer."
            )
        if base is not None and base is not sibling:
            problems += _kinship_problems(sibling, base, says_layers=says)
    return problems


def _kinship_problems(sibling: ModelType, base: ModelType, *, says_layers: bool) -> list[str]:
    if base.linear_shapes != sibling.linear_shapes:
        return [
            f"{sibling.name} is no depth-pruned sibling of {base.name}: their linear layers have different shapes. "
            "Remove siblings_of, or name the model it was cut from."
        ]
    if sibling.num_layers < base.num_layers and not says_layers:
        unknown = f"{sibling.name}: which layers of {base.name} it kept is unknown"
        return [f"{unknown}. Give fleet.{sibling.index}.layers."]
    if not set(sibling.original_layers) <= set(base.original_layers):
        return [f"{sibling.name}: its original layers {sibling.original_layers} are not all in {base.name}."]
    return []
