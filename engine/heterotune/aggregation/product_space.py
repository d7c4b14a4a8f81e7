"""Sums of low-rank products as factors: no matrix of the size of a layer is ever built.

Legend: K clients, r adapter rank, R components of a sum, O output width, I input width, Q singular values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_RELATIVE_ZERO = 1e-12
"""Singular values below this share of the largest are rounding."""


class Factors(NamedTuple):
    """A matrix U V."""

    up_OR: Tensor
    down_RI: Tensor


class Singular(NamedTuple):
    """A matrix as left · diag(values) · right, values falling; those that are only rounding are left out.

    Of the two signs of a pair that which makes the right vector's largest element positive: equal matrices from
    different factors come out alike.
    """

    left_OQ: Tensor
    values_Q: Tensor
    right_QI: Tensor


def stacked(up_KOr: Tensor, down_KrI: Tensor, weight_K: Tensor) -> Factors:
    """Return Σ_k w_k U_k V_k with all components side by side, in client order; the weights stand in U.

    Args:
        up_KOr: U of each client.
        down_KrI: V of each client.
        weight_K: What each product is multiplied by.
    """
    up_OKr = (up_KOr * weight_K[:, None, None]).transpose(0, 1)
    return Factors(up_OKr.flatten(1), down_KrI.flatten(0, 1))


def averaging_residual(up_KOr: Tensor, down_KrI: Tensor, share_K: Tensor) -> Factors:
    """Return Σ_k p_k U_k V_k - (Σ_k p_k U_k)(Σ_k p_k V_k): what is missed where factors are averaged.

    It is Σ_k p_k (U_k - mean U)(V_k - mean V), which is how it is built: nothing large is subtracted.

    Args:
        up_KOr: U of each client.
        down_KrI: V of each client.
        share_K: p_k, sums to 1.
    """
    up_mean_Or = (share_K[:, None, None] * up_KOr).sum(dim=0)
    down_mean_rI = (share_K[:, None, None] * down_KrI).sum(dim=0)
    return stacked(up_KOr - up_mean_Or, down_KrI - down_mean_rI, share_K)


def beside(*parts: Factors) -> Factors:
    """Return the sum of products as one."""
    return Factors(torch.cat([part.up_OR for part in parts], dim=1), torch.cat([part.down_RI for part in parts]))


def squared_norm(factors: Factors) -> float:
    """Return the squared Frobenius norm of a product, from two R x R matrices."""
    up_OR, down_RI = factors
    return max(0.0, float(((up_OR.T @ up_OR) * (down_RI @ down_RI.T)).sum()))


def client_squared_norms(up_KOr: Tensor, down_KrI: Tensor) -> Tensor:
    """Return the squared Frobenius norm of each client's product, shape (K,)."""
    gram_Krr = (up_KOr.transpose(1, 2) @ up_KOr) * (down_KrI @ down_KrI.transpose(1, 2))
    return gram_Krr.sum(dim=(1, 2)).clamp(min=0.0)


def singular(factors: Factors) -> Singular:
    """Return the singular value decomposition of a product: QR of both factors, then that of the small core."""
    left_OR, up_core = torch.linalg.qr(factors.up_OR)
    right_IR, down_core = torch.linalg.qr(factors.down_RI.T)
    core_left, values_Q, core_right = torch.linalg.svd(up_core @ down_core.T, full_matrices=False)
    kept = int((values_Q > _RELATIVE_ZERO * values_Q[0]).sum())
    left_OQ, right_QI = left_OR @ core_left[:, :kept], core_right[:kept] @ right_IR.T
    sign_Q = right_QI.gather(1, right_QI.abs().argmax(dim=1, keepdim=True)).sign().flatten()
    return Singular(left_OQ * sign_Q, values_Q[:kept], right_QI * sign_Q[:, None])


def cut(found: Singular, adapter_rank: int, scale: float, down_rI: Tensor) -> Factors:
    """Return the best factors of a rank, with scale · U V the matrix cut to it.

    Args:
        found: The matrix.
        adapter_rank: r.
        scale: The branch's factor, alpha / r.
        down_rI: V of components that the matrix does not need: U is 0 there, and a V of 0 could never train.
    """
    kept = min(adapter_rank, len(found.values_Q))
    up_Or = found.left_OQ.new_zeros(len(found.left_OQ), adapter_rank)
    up_Or[:, :kept] = found.left_OQ[:, :kept] * (found.values_Q[:kept] / scale)
    return Factors(up_Or, torch.cat([found.right_QI[:kept], down_rI[kept:]]))
