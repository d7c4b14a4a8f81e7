"""transformers' classes of the supported architectures: a model without memory, and the blocks that it consists of."""

from __future__ import annotations

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from heterotune.errors import ModelError
from heterotune.fleet.model_source import ModelSource

_CLASSES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
_NEVER_TAKEN = ("model_type", "auto_map", "custom_pipelines", "attn_implementation", "quantization_config")


def lm_config(source: ModelSource) -> PreTrainedConfig:
    """Return a model's configuration, without what names code to fetch or to run.

    Raises:
        ModelError: If it is none of its architecture.
    """
    config_class, _ = _CLASSES[source.llama["model_type"]]
    fields = {key: value for key, value in source.llama.items() if key not in _NEVER_TAKEN and not key.startswith("_")}
    try:
        config = config_class(**fields)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        told = " ".join(str(error).split())
        raise ModelError(f"{source.reference}: its config.json is no LLaMA's ({told}).") from error
    config._attn_implementation = "sdpa"
    return config


def lm_on_meta(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model without memory for its weights, its positions' frequencies excepted: they are computed.

    Raises:
        ModelError: As `lm_config`.
    """
    config = lm_config(source)
    with torch.device("meta"):
        lm = _CLASSES[source.llama["model_type"]][1](config).to(dtype)
    lm.model.rotary_emb = type(lm.model.rotary_emb)(config)  # float32 whatever the weights are
    return lm


def blocks(lm: PreTrainedModel) -> dict[str, nn.Module]:
    """Return name -> block, in the order of the pass; a head that is tied to the embedding is none."""
    found: dict[str, nn.Module] = {"model.embed_tokens": lm.model.embed_tokens}
    found |= {f"model.layers.{number}": layer for number, layer in enumerate(lm.model.layers)}
    found["model.norm"] = lm.model.norm
    return found if lm.config.tie_word_embeddings else found | {"lm_head": lm.lm_head}


def tie_head(lm: PreTrainedModel) -> None:
    """Let a tied head be the input embedding again, whose parameter was replaced."""
    if lm.config.tie_word_embeddings:
        lm.lm_head.weight = lm.model.embed_tokens.weight
