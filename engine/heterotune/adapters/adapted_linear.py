"""A frozen linear and the low-rank branch of each client beside it, as one operation with a backward pass of its own.

Written out by hand because of memory traffic: autograd would keep the frozen output, add the branch into a copy of it,
and add two gradients of the input. Here the branch is added in place, forward and backward.

Legend: K clients, N rows of a client (batch and tokens), r adapter rank, I input width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from heterotune.adapters.layout import Activation


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down_KrI: Tensor,
    up_KOr: Tensor,
    scale: float,
    activation: Activation = "none",
) -> Tensor:
    """Return W x + b + scale · U a(V x), each row through its own client's U and V.

    Args:
        x: Input, shape (..., I); its leading dimensions hold the K clients' rows in client order, in equal parts.
        weight: Frozen, shape (O, I).
        bias: Frozen, shape (O,), or None.
        down_KrI: V of each client, in x's dtype.
        up_KOr: U of each client, in x's dtype.
        scale: Factor on the branch.
        activation: a, element by element; "none" is the identity.

    Returns:
        Shape (..., O). Differentiable in x, V and U; the same formula one client at a time is in training/reference.py.
    """
    return _AdaptedLinear.apply(x, weight, bias, down_KrI, up_KOr, scale, activation)


def branch_beside(
    output: Tensor, x: Tensor, down_KrI: Tensor, up_KOr: Tensor, scale: float, activation: Activation = "none"
) -> Tensor:
    """Return output + scale · U a(V x): for frozen linears that compute by themselves, such as 4-bit ones.

    Args:
        output: W x + b, shape (..., O).
        x: Input, as for `adapted_linear`; so are V, U and the scale.
        down_KrI: V of each client.
        up_KOr: U of each client.
        scale: Factor on the branch.
        activation: a, as for `adapted_linear`.
    """
    rows_KNI = x.reshape(down_KrI.shape[0], -1, x.shape[-1])
    low_KNr = torch.bmm(rows_KNI, down_KrI.transpose(1, 2))
    low_KNr = (low_KNr if activation == "none" else F.silu(low_KNr)) * scale
    return output + torch.bmm(low_KNr, up_KOr.transpose(1, 2)).view_as(output)


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, down_KrI, up_KOr, scale, activation):
        num_clients = down_KrI.shape[0]
        rows = x.reshape(-1, x.shape[-1])
        rows_KNI = rows.view(num_clients, -1, rows.shape[1])
        output = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
        before_KNr = torch.bmm(rows_KNI, down_KrI.transpose(1, 2))
        if activation == "none":
            low_KNr, before_KNr = before_KNr.mul_(scale), None
        else:
            low_KNr = F.silu(before_KNr).mul_(scale)
        output.view(num_clients, -1, output.shape[1]).baddbmm_(low_KNr, up_KOr.transpose(1, 2))
        ctx.save_for_backward(rows_KNI, weight, down_KrI, up_KOr, low_KNr, before_KNr)
        ctx.scale = scale
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad_output):
        rows_KNI, weight, down_KrI, up_KOr, low_KNr, before_KNr = ctx.saved_tensors
        grad = grad_output.reshape(-1, grad_output.shape[-1])
        grad_KNO = grad.view(len(rows_KNI), -1, grad.shape[1])
        grad_low_KNr = torch.bmm(grad_KNO, up_KOr).mul_(ctx.scale)
        if before_KNr is not None:
            grad_low_KNr = torch.ops.aten.silu_backward(grad_low_KNr, before_KNr)
        grad_x = grad_down_KrI = grad_up_KOr = None
        if ctx.needs_input_grad[4]:
            grad_up_KOr = torch.bmm(low_KNr.transpose(1, 2), grad_KNO).transpose(1, 2)
        if ctx.needs_input_grad[3]:
            grad_down_KrI = torch.bmm(grad_low_KNr.transpose(1, 2), rows_KNI)
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, weight)
            grad_x.view(len(rows_KNI), -1, grad_x.shape[1]).baddbmm_(grad_low_KNr, down_KrI)
            grad_x = grad_x.view(*grad_output.shape[:-1], -1)
        return grad_x, None, None, grad_down_KrI, grad_up_KOr, None, None
