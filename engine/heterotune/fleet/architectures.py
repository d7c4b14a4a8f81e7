"""Which configurations are LLaMAs that this engine computes exactly as transformers does. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heterotune.config.explain import shown

ARCHITECTURES = ("llama", "mistral")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def architecture_problem(llama: Mapping[str, Any]) -> str | None:
    """Return why a config.json is of no model that can be federated, None if it is one.

    Mistral is a LLaMA without biases whose attention may look back over a window only. Left out: mixtures of experts,
    windows in some layers only, and weights that are stored quantised.
    """
    kind = llama.get("model_type")
    if kind not in ARCHITECTURES:
        return f"model_type is {shown(kind)}, not 'llama' or 'mistral'. heterotune federates LLaMA models."
    for key in _EXPERT_COUNTS:
        if llama.get(key):
            return f"{key} = {shown(llama[key])}: a mixture of experts is no LLaMA. Use a dense model."
    if (stored := llama.get("quantization_config")) is not None:
        method = stored.get("quant_method") if isinstance(stored, Mapping) else stored
        return (
            f"its weights are stored quantised (quantization_config: {shown(method)}). Use the model with weights in "
            "fp32, bf16 or fp16; backbone.quantize makes 4 bits of them while they are read."
        )
    layer_types = llama.get("layer_types")
    if kind == "mistral" and isinstance(layer_types, list) and "full_attention" in layer_types:
        return "layer_types: only some layers have a sliding window, which transformers' Mistral does not compute."
    return None


def longest_independent_row(llama: Mapping[str, Any]) -> int | None:
    """Return the longest row, in tokens, up to which positions do not depend on rows that ran before; None = any.

    Dynamic RoPE scaling keeps the frequencies of the longest row since the last short one, so beyond that length a
    loss would depend on the order of passes, hence on the number of ranks.
    """
    scaling = llama.get("rope_parameters") or llama.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping) or "dynamic" not in (scaling.get("rope_type"), scaling.get("type")):
        return None
    return llama.get("max_position_embeddings", 2048)
