"""4-bit backbones: the frozen linears of a model's layers as bitsandbytes stores them; adapters stay in full precision.

The values are those of transformers' BitsAndBytesConfig(load_in_4bit=True) without double quantisation. Embeddings,
norms and the head keep the backbone's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit


def quantize_linears(block: nn.Module, kind: str, device: torch.device) -> None:
    """Replace the linears inside a block by 4-bit ones on a device; what they were is freed.

    Args:
        block: A layer, filled. Changes.
        kind: nf4 or fp4.
        device: Where this rank computes.
    """
    for path, linear in list(block.named_modules()):
        if path and type(linear) is nn.Linear:
            block.set_submodule(path, _quantized(linear, kind, device))


def quantization_states(module: nn.Module) -> Iterator[Tensor]:
    """Yield the scales of 4-bit weights, which belong to the weights but are no parameters."""
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield state.absmax


def _quantized(linear: nn.Linear, kind: str, device: torch.device) -> Linear4bit:
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        made = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=linear.weight.dtype,
            compress_statistics=False,
            quant_type=kind,
        )
    made.weight = Params4bit(linear.weight.data, requires_grad=False, compress_statistics=False, quant_type=kind)
    made.weight = made.weight.to(device)  # here it becomes 4 bits
    made.bias = linear.bias
    # Else a pass without gradients would pack the weights for the CPU, and the next pass with gradients would fail.
    made.support_avx512bf16_for_cpu = False
    return made
