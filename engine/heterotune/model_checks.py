"""Whether a fleet's models fit one another, the run's methods and its options. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from heterotune.adapters.dema import with_head_rank
from heterotune.adapters.tables import adapter_layout
from heterotune.config.engine_options import NO_QUANTIZATION
from heterotune.config.schema import RunConfig
from heterotune.fleet.architectures import longest_independent_row
from heterotune.fleet.model_types import ModelType


def model_problems(config: RunConfig, model_types: tuple[ModelType, ...]) -> list[str]:
    """Return everything that the models cannot do of what the run asks; see `tokenizer_problems` for their tokens."""
    return [
        *_head_problems(config, model_types),
        *_position_problems(config, model_types),
        *_quantize_problems(config, model_types),
    ]


def has_head(config: RunConfig) -> bool:
    """Return whether any strategy of the run shares a branch at the head."""
    return "heterotune" in (config.strategy, *config.compare_with) and config.heterotune.head_rank != 0


def _head_problems(config: RunConfig, model_types: tuple[ModelType, ...]) -> list[str]:
    """The head branch needs one vocabulary, and ranks that the models are wide enough for."""
    if not has_head(config):
        return []
    options = with_head_rank(config, model_types).heterotune
    problems = []
    sizes = sorted({model_type.vocab_size for model_type in model_types})
    if len(sizes) > 1:
        problems.append(
            f"heterotune.head_rank: the model types' vocabularies differ ({', '.join(map(str, sizes))} tokens), so "
            "they cannot share a branch at the head. Use models with one vocabulary, or set heterotune.head_rank to 0."
        )
    narrowest = min(model_types, key=lambda model_type: model_type.width)
    if options.head_rank > narrowest.width:
        problems.append(
            f"heterotune.head_rank = {options.head_rank} is more than the width {narrowest.width} of {narrowest.name}. "
            "Lower it."
        )
    widths = sum(model_type.width for model_type in model_types)
    if options.head_outputs == "vocabulary" and options.head_basis > min(widths, sizes[0]):
        problems.append(
            f"heterotune.head_basis = {options.head_basis} is more than the output embeddings can span, "
            f"{min(widths, sizes[0])}. Lower it."
        )
    return problems


def tokenizer_problems(config: RunConfig, model_types: Sequence[ModelType], digests: Sequence[str]) -> list[str]:
    """Find methods that share a tensor between model types whose tokenizers differ.

    A token's number means something else there, and so does whatever was trained on it. Methods that share within a
    model type only (such as fedavg_lora) let every type have a tokenizer of its own.

    Args:
        config: The run.
        model_types: The fleet.
        digests: Of each model type's tokenizer; equal ones mean one output space.
    """
    if len(set(digests)) == 1:
        return []
    problems = []
    for method in (config.strategy, *config.compare_with):
        holders: dict[str, list[int]] = {}
        for place, model_type in enumerate(model_types):
            layout = adapter_layout(method, config, model_type, model_types)
            for spec in layout.tensors:
                if spec.scope != "client" and spec.trains:  # what no step changes knows no tokens
                    holders.setdefault(spec.key, []).append(place)
            if layout.head is not None:  # whoever shares its core: all types read the same public tokens
                holders.setdefault("the vocabulary of head.S", []).append(place)
        shared = {key: places for key, places in holders.items() if len({digests[place] for place in places}) > 1}
        if shared:
            key, places = next(iter(shared.items()))
            who = ", ".join(f"{model_types[place].name} {digests[place][:8]}" for place in places)
            problems.append(
                f"strategy {method} shares {key} between model types whose tokenizers differ ({who}), so they share no "
                f"output space. Use models with one tokenizer, give data.tokenizer one that suits all, "
                f"{_without_sharing(method)}or use a method that shares within a model type only, such as fedavg_lora."
            )
    return problems


def _without_sharing(method: str) -> str:
    """Say what of a method's options keeps types apart."""
    return "set heterotune.head_rank to 0 and remove siblings_of, " if method == "heterotune" else ""


def _quantize_problems(config: RunConfig, model_types: Sequence[ModelType]) -> list[str]:
    """4-bit weights need bitsandbytes, and methods that do not train the weights themselves."""
    quantize = config.backbone.quantize
    if quantize == NO_QUANTIZATION:
        return []
    problems = []
    if importlib.util.find_spec("bitsandbytes") is None:
        problems.append(
            f"backbone.quantize = {quantize} needs bitsandbytes, which is not installed here. Install it with "
            "`pip install 'heterotune[bnb]'`, or drop backbone.quantize."
        )
    for method in (config.strategy, *config.compare_with):
        if adapter_layout(method, config, model_types[0], model_types).dense:
            problems.append(
                f"strategy {method} trains the weights themselves, which 4 bits cannot hold. Drop backbone.quantize, "
                "or use a method with adapters."
            )
    return problems


def _position_problems(config: RunConfig, model_types: Sequence[ModelType]) -> list[str]:
    """Rows must be so short that a model's positions do not depend on the rows before."""
    problems = []
    for model_type in model_types:
        longest = longest_independent_row(model_type.source.llama)
        if longest is not None and config.data.max_tokens > longest:
            problems.append(
                f"data.max_tokens = {config.data.max_tokens} is more than the {longest} positions up to which the "
                f"dynamic RoPE scaling of {model_type.name} does not depend on the rows before. Lower it, or use a "
                "model with another scaling."
            )
    return problems
