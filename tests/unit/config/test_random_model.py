"""`random:` model strings."""

from __future__ import annotations

import re

import pytest
from transformers import LlamaConfig

from heterotune.config import random_model
from heterotune.config.random_model import FIELDS, parse_random_model


def test_values_by_kind():
    text = "random:hidden_size=256, num_attention_heads=4,rope_theta=5e5,tie_word_embeddings=true,seed=0"
    assert parse_random_model(text) == {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random:", "has '' where key=value should be"),
        ("random:seed", "has 'seed' where key=value should be"),
        ("random:hidden_sise=8", "has the unknown key hidden_sise. Did you mean hidden_size"),
        ("random:seed=1,seed=2", "gives seed twice"),
        ("random:seed=-1", "gives seed = '-1', which is not an integer of at least 0"),
        ("random:vocab_size=0", "gives vocab_size = '0', which is not an integer of at least 1"),
        ("random:vocab_size=1.5", "gives vocab_size = '1.5', which is not an integer of at least 1"),
        ("random:rms_norm_eps=nan", "gives rms_norm_eps = 'nan', which is not a number above 0"),
        ("random:rope_theta=x", "gives rope_theta = 'x', which is not a number above 0"),
        ("random:mlp_bias=1", "gives mlp_bias = '1', which is not true or false"),
        ("random:hidden_size=100", "has hidden_size = 100, not a multiple of num_attention_heads = 32"),
        ("random:hidden_size=12,num_attention_heads=4", "has an odd head_dim"),
        ("random:head_dim=5", "has an odd head_dim, which rotary positions cannot use"),
        ("random:num_key_value_heads=5", "has num_attention_heads = 32, not a multiple of num_key_value_heads = 5"),
        (
            "random:a=1,b",
            "has the unknown key a. There is: .*; has 'b' where key=value should be. Write it like random:",
        ),
    ],
)
def test_mistakes(text, message):
    message = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match="^" + message):
        parse_random_model(text)


def test_the_table_is_llama_configs():
    """Against the installed transformers; rope_theta goes into its rope_parameters."""
    assert set(FIELDS) - {"seed", "rope_theta"} <= set(LlamaConfig.__annotations__)
    assert LlamaConfig(rope_theta=5e5).rope_parameters["rope_theta"] == 5e5
    assert LlamaConfig().hidden_size == random_model._DEFAULT_HIDDEN_SIZE
    assert LlamaConfig().num_attention_heads == random_model._DEFAULT_NUM_ATTENTION_HEADS
