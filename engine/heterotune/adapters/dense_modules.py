"""The layers of a LLaMA with every client's own weights: the frozen ones and the client's difference.

Legend: K clients, N rows of a client (batch and tokens), I input width, O output width, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dense_forward(module: nn.Module, x: Tensor, differences: Mapping[str, Tensor]) -> Tensor:
    """Run a linear, an embedding or an RMS norm of a `LlamaModel`, each row through its own client's weights.

    Args:
        module: Its parameters are frozen, and whole at the moment (gathered, under ZeRO-3).
        x: Its input; the leading dimensions hold the K clients' rows in client order, in equal parts.
        differences: Name of a parameter of the module -> what each client adds to it, shape (K, ...).

    Returns:
        What the module would return, differentiable in x and the differences; one client at a time is in
        training/reference.py.
    """
    if isinstance(module, nn.Linear):
        return _linear(x, module.weight, module.bias, differences["weight"], differences.get("bias"))
    if isinstance(module, nn.Embedding):
        return _embedding(x, module.weight, module.padding_idx, differences["weight"])
    return _rms_norm(x, module.weight, module.variance_epsilon, differences["weight"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, own_KOI: Tensor, own_bias_KO: Tensor | None) -> Tensor:
    output = _DenseLinear.apply(x, weight, own_KOI)
    if bias is None or own_bias_KO is None:
        return output
    bias_K1O = (bias + own_bias_KO).to(x.dtype).unsqueeze(1)
    return (output.view(len(own_KOI), -1, output.shape[-1]) + bias_K1O).view_as(output)


def _embedding(ids_RT: Tensor, weight: Tensor, padding_idx: int | None, own_KVD: Tensor) -> Tensor:
    num_clients, vocab_size, _ = own_KVD.shape
    first_K1 = torch.arange(num_clients, device=ids_RT.device).unsqueeze(1) * vocab_size
    own = F.embedding(ids_RT.reshape(num_clients, -1) + first_K1, own_KVD.flatten(0, 1)).view(*ids_RT.shape, -1)
    if padding_idx is not None:  # as in nn.Embedding, its row gets no gradient from the input side
        own = torch.where((ids_RT == padding_idx).unsqueeze(-1), own.detach(), own)
    return (F.embedding(ids_RT, weight) + own).to(weight.dtype)


def _rms_norm(x_RTD: Tensor, weight: Tensor, epsilon: float, own_KD: Tensor) -> Tensor:
    wide_RTD = x_RTD.float()
    normed_RTD = wide_RTD * torch.rsqrt(wide_RTD.square().mean(-1, keepdim=True) + epsilon)
    weight_K1D = (weight + own_KD).to(x_RTD.dtype).unsqueeze(1)
    return (weight_K1D * normed_RTD.to(x_RTD.dtype).view(len(own_KD), -1, x_RTD.shape[-1])).view_as(x_RTD)


class _DenseLinear(torch.autograd.Function):
    """(W + D_k) x. The sum is made anew in the backward pass: kept, it would be a copy of the model a client."""

    @staticmethod
    def forward(ctx, x, weight, difference_KOI):
        rows_KNI = x.reshape(len(difference_KOI), -1, x.shape[-1])
        output_KNO = torch.bmm(rows_KNI, (weight + difference_KOI).to(x.dtype).transpose(1, 2))
        ctx.save_for_backward(rows_KNI, weight, difference_KOI)
        return output_KNO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad_output):
        rows_KNI, weight, difference_KOI = ctx.saved_tensors
        grad_KNO = grad_output.reshape(len(rows_KNI), -1, grad_output.shape[-1])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_KNI = torch.bmm(grad_KNO, (weight + difference_KOI).to(grad_KNO.dtype))
            grad_x = grad_KNI.view(*grad_output.shape[:-1], -1)
        grad_KOI = torch.bmm(grad_KNO.transpose(1, 2), rows_KNI).to(difference_KOI.dtype)
        return grad_x, None, grad_KOI
