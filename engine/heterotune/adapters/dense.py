"""A whole model as a table of scopes: one difference to every frozen parameter. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.config.schema import FedavgFullOptions
from heterotune.fleet.model_types import ALL_LINEARS, ATTENTION_LINEARS, ModelType, linear_path

EMBEDDING = "embed_tokens.weight"
FINAL_NORM = "norm.weight"
LM_HEAD = "lm_head.weight"


def full_layout(options: FedavgFullOptions, model_type: ModelType) -> AdapterLayout:
    """Return the differences to all parameters of a model type; scope "type", zero at the start.

    A block of a layer (attention or MLP, with the norm before it) is one tensor group, so that no message is larger.
    """
    is_tied = bool(model_type.source.llama.get("tie_word_embeddings", False))
    tensors = tuple(
        TensorSpec(
            name=name,
            shape=shape,
            scope="type",
            key=f"type/{model_type.name}/{name}",
            group=f"full.{group}",
            depth_class=depth_class,
            learning_rate_scale=options.learning_rate_scale,
        )
        for name, shape, group, depth_class in _parameters(model_type, is_tied)
    )
    dense = tuple(spec.name for spec in tensors if spec.name != LM_HEAD)
    return AdapterLayout(model_type.name, tensors, dense=dense, output_embedding=EMBEDDING if is_tied else LM_HEAD)


def _parameters(model_type: ModelType, is_tied: bool) -> Iterator[tuple[str, tuple[int, ...], str, str]]:
    """Yield path in `LlamaModel`, shape, block and depth class of every parameter; the untied head as `LM_HEAD`."""
    vocabulary = (model_type.vocab_size, model_type.width)
    yield EMBEDDING, vocabulary, "embedding", "embedding"
    for layer, original in enumerate(model_type.original_layers):
        for name, shape, block in _layer_parameters(model_type, layer):
            yield name, shape, f"layers.{layer}.{block}", str(original)
    yield FINAL_NORM, (model_type.width,), "norm", "head"
    if not is_tied:
        yield LM_HEAD, vocabulary, "lm_head", "head"


def _layer_parameters(model_type: ModelType, layer: int) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield path, shape and block of a layer's parameters; its linears have biases where the model's config says so."""
    for linear in ALL_LINEARS:
        block = "attention" if linear in ATTENTION_LINEARS else "mlp"
        path, (d_out, d_in) = linear_path(layer, linear), model_type.linear_shapes[linear]
        yield f"{path}.weight", (d_out, d_in), block
        if model_type.source.llama.get(f"{block}_bias", False):
            yield f"{path}.bias", (d_out,), block
    for norm, block in {"input_layernorm": "attention", "post_attention_layernorm": "mlp"}.items():
        yield f"layers.{layer}.{norm}.weight", (model_type.width,), block
