"""A whole model as a table of scopes: one difference to every frozen parameter. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.config.method_options import FedavgFullOptions
from heterotune.fleet.model_types import ModelType
from heterotune.fleet.parameter_shapes import EMBEDDING, FINAL_NORM, INPUT_NORM, LM_HEAD, parameter_shapes


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
        for name, shape, group, depth_class in _parameters(model_type)
    )
    dense = tuple(spec.name for spec in tensors if spec.name != LM_HEAD)
    return AdapterLayout(model_type.name, tensors, dense=dense, output_embedding=EMBEDDING if is_tied else LM_HEAD)


def _parameters(model_type: ModelType) -> Iterator[tuple[str, tuple[int, ...], str, str]]:
    """Yield path in `LlamaModel`, shape, block and depth class of every parameter; the untied head as `LM_HEAD`."""
    places = {EMBEDDING: ("embedding", "embedding"), FINAL_NORM: ("norm", "head"), LM_HEAD: ("lm_head", "head")}
    llama, shapes = model_type.source.llama, model_type.linear_shapes
    for path, shape in parameter_shapes(llama, shapes, model_type.num_layers, model_type.vocab_size):
        yield path, shape, *(places.get(path) or _place_in_layer(path, model_type.original_layers))


def _place_in_layer(path: str, original_layers: Sequence[int]) -> tuple[str, str]:
    """Return block and depth class of a layer's parameter; the norm before a block is the block's."""
    _, layer, module, *_ = path.split(".")
    block = "attention" if module in ("self_attn", INPUT_NORM) else "mlp"
    return f"layers.{layer}.{block}", str(original_layers[int(layer)])
