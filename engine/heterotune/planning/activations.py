"""What one training pass holds for its tokens: our derivation from this engine's forward pass.

The forward pass is that of transformers' LLaMA with sdpa attention, linears as in `adapters/adapted_linear.py`, head
and loss as in `backbone/head_loss.py`. What autograd saves is checked against `saved_tensors_hooks`
(tests/unit/planning/test_activations.py), the peak against torch's own count of live bytes (docs/planning.md).
All functions return bytes per token, as rows of (width in bytes of one tensor, how many such tensors): an allocator
treats large and small tensors differently.
"""

from __future__ import annotations

from collections.abc import Sequence

from heterotune.backbone.logit_blocks import tokens_per_block
from heterotune.planning.shapes import TypeShape

FP32 = 4
Tensors = list[tuple[int, int]]
"""(bytes of one token's part of a tensor, number of such tensors)."""


def saved_by_layer(shape: TypeShape, dtype_bytes: int) -> Tensors:
    """Return what a layer that has a backward pass keeps for it."""
    ranks, wide = shape.rank_of_linear, dtype_bytes
    reads_attention = any(ranks.get(name) for name in ("q_proj", "k_proj", "v_proj"))
    reads_mlp = any(ranks.get(name) for name in ("gate_proj", "up_proj"))
    saved = [
        (FP32 * shape.width, 2),  # both norms' inputs, in fp32; with an fp32 backbone these are the residual stream
        (FP32, 2),  # both norms' 1 / rms
        (wide * shape.width, int(reads_attention) + int(reads_mlp)),  # what adapted linears read
        (wide * shape.query_width, 2),  # q and the attention's output, which o_proj reads
        (wide * shape.key_width, 2),  # k, v
        (FP32 * shape.num_heads, 1),  # log of the attention's denominator
        (wide * shape.inner, 3 + int(bool(ranks.get("down_proj")))),  # gate, silu(gate), up; their product
        (wide * sum(ranks.values()), 1),  # V x of every branch
    ]
    return [(width, count) for width, count in saved if width and count]


def saved_by_pass(shape: TypeShape, dtype_bytes: int, *, checkpointing: bool) -> Tensors:
    """Return what layers and the final norm keep until the backward pass begins: those from the lowest that trains.

    The lowest one's input needs no gradient, so its norm keeps nothing; the final norm's input takes its place.
    """
    if not shape.num_backward:
        return []
    final_norm = [(FP32 * shape.width, 1)]
    if checkpointing:
        return [(dtype_bytes * shape.width, shape.num_backward), *final_norm]
    return [(width, count * shape.num_backward) for width, count in saved_by_layer(shape, dtype_bytes)]


def at_head(shape: TypeShape, dtype_bytes: int) -> Tensors:
    """Return what is alive beside the layers' tensors while the loss is computed.

    Final hidden states; those that count; their gradient; of the head branch V x, its features, those that count, their
    gradient.
    """
    live = [(dtype_bytes * shape.width, 3)]
    if shape.layout.head is not None:
        live += [(dtype_bytes * (shape.layout.head.head_rank + 1), 1), (dtype_bytes * shape.layout.head.basis_rank, 3)]
    return live


def in_backward(shape: TypeShape, dtype_bytes: int, *, checkpointing: bool) -> Tensors:
    """Return what is alive beside the layers' tensors while the last layer's MLP goes backward.

    The gradient of the residual stream and two gradients of the inner width; with checkpointing also the whole layer,
    computed again, but for its input, which was kept. Where no layer goes backward, what an MLP holds forward.
    """
    if not shape.num_backward:
        return in_evaluation(shape, dtype_bytes)
    live = [(dtype_bytes * shape.width, 1), (dtype_bytes * shape.inner, 2)]
    if checkpointing:
        live += saved_by_layer(shape, dtype_bytes)
        if dtype_bytes == FP32:
            live.append((FP32 * shape.width, -1))
    return live


def in_evaluation(shape: TypeShape, dtype_bytes: int) -> Tensors:
    """Return what a forward pass without gradient holds at most: inside an MLP."""
    return [(dtype_bytes * shape.width, 3), (dtype_bytes * shape.inner, 3)]


def logits_bytes(shape: TypeShape, dtype_bytes: int, num_tokens: int) -> int:
    """Return the bytes of blocks of logits while the loss of `num_tokens` tokens is computed.

    At most at once: the gradient that the block before left, the block's logits, and either these before the head
    branch was added or their log-probabilities (fp32).
    """
    block = tokens_per_block(shape.vocab_size)
    elements = min(block, num_tokens) * shape.vocab_size
    copies = dtype_bytes + (dtype_bytes if dtype_bytes == FP32 else 2 * FP32)
    return elements * (copies + (dtype_bytes if num_tokens > block else 0))


def total(tensors: Sequence[tuple[int, int]], num_tokens: int) -> int:
    """Return the bytes of all tensors for `num_tokens` tokens."""
    return num_tokens * sum(width * count for width, count in tensors)
