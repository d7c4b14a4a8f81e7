"""Name and shape of every parameter of a model type, by arithmetic on its configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

EMBEDDING = "embed_tokens.weight"
FINAL_NORM = "norm.weight"
LM_HEAD = "lm_head.weight"
INPUT_NORM, MIDDLE_NORM = "input_layernorm", "post_attention_layernorm"
ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
ALL_LINEARS = ATTENTION_LINEARS + MLP_LINEARS


def linear_path(layer: int, linear: str) -> str:
    """Return the module path of a target linear inside `LlamaModel`."""
    block = "self_attn" if linear in ATTENTION_LINEARS else "mlp"
    return f"layers.{layer}.{block}.{linear}"


def has_bias(llama: Mapping[str, Any], linear: str) -> bool:
    """Return whether a linear has a bias; Mistral's never have."""
    key = "attention_bias" if linear in ATTENTION_LINEARS else "mlp_bias"
    return llama.get("model_type") != "mistral" and bool(llama.get(key, False))


def layer_shapes(
    llama: Mapping[str, Any], linear_shapes: Mapping[str, tuple[int, int]], layer: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield path in `LlamaModel` and shape of a layer's parameters: linears with their biases, then norms."""
    for linear in ALL_LINEARS:
        path, shape = linear_path(layer, linear), linear_shapes[linear]
        yield f"{path}.weight", shape
        if has_bias(llama, linear):
            yield f"{path}.bias", shape[:1]
    for norm in (INPUT_NORM, MIDDLE_NORM):
        yield f"layers.{layer}.{norm}.weight", (linear_shapes["o_proj"][0],)


def parameter_shapes(
    llama: Mapping[str, Any], linear_shapes: Mapping[str, tuple[int, int]], num_layers: int, vocab_size: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield path in `LlamaModel` and shape of every parameter; the untied head comes last, as `LM_HEAD`."""
    width = linear_shapes["o_proj"][0]
    yield EMBEDDING, (vocab_size, width)
    for layer in range(num_layers):
        yield from layer_shapes(llama, linear_shapes, layer)
    yield FINAL_NORM, (width,)
    if not llama.get("tie_word_embeddings", False):
        yield LM_HEAD, (vocab_size, width)


def num_layer_elements(llama: Mapping[str, Any], linear_shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the parameters of one layer; all layers are alike."""
    return sum(math.prod(shape) for _, shape in layer_shapes(llama, linear_shapes, 0))


def name_in_lm(path: str) -> str:
    """Return a parameter's name in transformers' causal language model, as checkpoints spell it."""
    return path if path == LM_HEAD else f"model.{path}"
