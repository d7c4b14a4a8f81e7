"""`random:` models: a LLaMA of any shape with random weights: "random:hidden_size=256,num_hidden_layers=4,seed=1"."""

from __future__ import annotations

import math

from heterotune.config.nearest import suggestion

RANDOM_PREFIX = "random:"

# LlamaConfig's fields that shape a model, and the seed of its weights.
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_POSITIVE = ("rms_norm_eps", "rope_theta", "initializer_range")
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_MOST_PAIRS = 100  # the rest is told as one that is no key=value
FIELDS = (*_COUNTS, *_POSITIVE, *_FLAGS, "seed")

# LlamaConfig's defaults where two fields must fit each other.
_DEFAULT_HIDDEN_SIZE = 4096
_DEFAULT_NUM_ATTENTION_HEADS = 32


def parse_random_model(text: str) -> dict[str, int | float | bool]:
    """Read a `random:` model string.

    Args:
        text: "random:" and then `key=value` pairs between commas; keys are `FIELDS`, values are numbers, true or false.

    Returns:
        Keyword arguments for LlamaConfig, in the order given, and `seed` if it was given.

    Raises:
        ValueError: If anything is misspelt or does not fit; says everything that is wrong.
    """
    fields: dict[str, int | float | bool] = {}
    problems = []
    for pair in text.removeprefix(RANDOM_PREFIX).split(",", _MOST_PAIRS):
        key, equals, value_text = (part.strip() for part in pair.partition("="))
        if not equals:
            problems.append(f"has {pair!r} where key=value should be")
        elif key not in FIELDS:
            problems.append(f"has the unknown key {key}. {suggestion(key, FIELDS)[:-1]}")
        elif key in fields:
            problems.append(f"gives {key} twice")
        elif (value := _value(key, value_text)) is None:
            problems.append(f"gives {key} = {value_text!r}, which is not {_wanted(key)}")
        else:
            fields[key] = value
    problems += [] if problems else _shape_problems(fields)
    if problems:
        raise ValueError(f"{'; '.join(problems)}. Write it like random:hidden_size=256,num_hidden_layers=4.")
    return fields


def _value(key: str, text: str) -> int | float | bool | None:
    """Read one value; None if it is not of its key's kind."""
    if key in _FLAGS:
        return {"true": True, "false": False}.get(text.lower())
    try:
        value = float(text) if key in _POSITIVE else int(text)
    except ValueError:
        return None
    if key in _POSITIVE:
        return value if 0 < value < math.inf else None
    return value if (0 if key == "seed" else 1) <= value < 2**63 else None


def _wanted(key: str) -> str:
    """Say which values a key takes."""
    if key in _FLAGS:
        return "true or false"
    return "a number above 0" if key in _POSITIVE else f"an integer of at least {0 if key == 'seed' else 1}"


def _shape_problems(fields: dict[str, int | float | bool]) -> list[str]:
    """Find attention shapes that no LLaMA can have."""
    hidden_size = fields.get("hidden_size", _DEFAULT_HIDDEN_SIZE)
    num_heads = fields.get("num_attention_heads", _DEFAULT_NUM_ATTENTION_HEADS)
    num_key_value_heads = fields.get("num_key_value_heads", num_heads)
    problems = []
    if hidden_size % num_heads:
        problems.append(f"has hidden_size = {hidden_size}, not a multiple of num_attention_heads = {num_heads}")
    elif fields.get("head_dim", hidden_size // num_heads) % 2:
        problems.append("has an odd head_dim, which rotary positions cannot use")
    if num_heads % num_key_value_heads:
        text = f"num_attention_heads = {num_heads}, not a multiple of num_key_value_heads = {num_key_value_heads}"
        problems.append(f"has {text}")
    return problems
