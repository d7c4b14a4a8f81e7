"""How many tokens' logits are in memory at once. Imports no torch, so that a plan needs none."""

from __future__ import annotations

# Logit block: 2^22 fp32 elements = 16 MiB. A function of the vocabulary alone, so that results never depend on memory.
BLOCK_ELEMENTS = 1 << 22
_MIN_TOKENS = 64


def tokens_per_block(vocab_size: int) -> int:
    """Return the tokens whose logits are computed together."""
    return max(_MIN_TOKENS, BLOCK_ELEMENTS // vocab_size)
