"""Shapes of well-known LLaMAs, as `random:` models: plans for their hub ids need no file of theirs.

Sources: the config.json that Meta published with each checkpoint on the Hugging Face hub (meta-llama/Llama-2-7b-hf,
Llama-2-13b-hf, Llama-2-70b-hf, Llama-3.2-1B) and table 1 of Touvron et al., 2023 (arXiv:2307.09288). The number of
parameters that follows is a test.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from heterotune.fleet.model_source import ModelSource, describe_model

KNOWN_MODELS: Final[dict[str, str]] = {
    "llama-2-7b": "random:vocab_size=32000,hidden_size=4096,intermediate_size=11008,num_hidden_layers=32,"
    "num_attention_heads=32,num_key_value_heads=32,max_position_embeddings=4096,tie_word_embeddings=false",
    "llama-2-13b": "random:vocab_size=32000,hidden_size=5120,intermediate_size=13824,num_hidden_layers=40,"
    "num_attention_heads=40,num_key_value_heads=40,max_position_embeddings=4096,tie_word_embeddings=false",
    "llama-2-70b": "random:vocab_size=32000,hidden_size=8192,intermediate_size=28672,num_hidden_layers=80,"
    "num_attention_heads=64,num_key_value_heads=8,max_position_embeddings=4096,tie_word_embeddings=false",
    "llama-3.2-1b": "random:vocab_size=128256,hidden_size=2048,intermediate_size=8192,num_hidden_layers=16,"
    "num_attention_heads=32,num_key_value_heads=8,head_dim=64,max_position_embeddings=131072,tie_word_embeddings=true",
}

HUB_IDS: Final = {
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-13b-hf": "llama-2-13b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Llama-3.2-1B": "llama-3.2-1b",
}


def describe(reference: str) -> ModelSource:
    """Read a model's configuration: as `describe_model`, but the hub ids of known models need not be in the cache.

    Raises:
        ModelError: As `describe_model`.
    """
    if reference not in HUB_IDS:
        return describe_model(reference)
    # A folder, because weights that are read are never whole blocks of float32, as random ones are.
    return replace(describe_model(KNOWN_MODELS[HUB_IDS[reference]]), reference=reference, folder=Path(reference))
