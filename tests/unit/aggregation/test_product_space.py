"""Sums of low-rank products as factors equal the dense matrices that they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from heterotune.aggregation.product_space import (
    Factors,
    averaging_residual,
    beside,
    client_squared_norms,
    cut,
    singular,
    squared_norm,
    stacked,
)

SHAPES = [(3, 7, 2, 6), (5, 4, 3, 4), (1, 6, 2, 5)]  # K, O, r, I; with 15 components in a 4 x 4 matrix, too


def clients(shape, seed=0):
    num_clients, d_out, rank, d_in = shape
    draw = torch.Generator().manual_seed(seed)
    up_KOr = torch.randn(num_clients, d_out, rank, generator=draw, dtype=torch.float64)
    down_KrI = torch.randn(num_clients, rank, d_in, generator=draw, dtype=torch.float64)
    weight_K = torch.rand(num_clients, generator=draw, dtype=torch.float64)
    return up_KOr, down_KrI, weight_K / weight_K.sum()


def dense(factors):
    return (factors.up_OR @ factors.down_RI).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stack_is_the_weighted_sum_of_products(shape):
    up_KOr, down_KrI, share_K = clients(shape)
    wanted = np.einsum("k,kor,kri->oi", share_K.numpy(), up_KOr.numpy(), down_KrI.numpy())
    found = stacked(up_KOr, down_KrI, share_K)
    np.testing.assert_allclose(dense(found), wanted, atol=1e-13)
    np.testing.assert_allclose(dense(beside(found, found)), 2 * wanted, atol=1e-13)
    np.testing.assert_allclose(math.sqrt(squared_norm(found)), np.linalg.norm(wanted), rtol=1e-12)
    norms = [np.linalg.norm(up @ down) ** 2 for up, down in zip(up_KOr.numpy(), down_KrI.numpy(), strict=True)]
    np.testing.assert_allclose(client_squared_norms(up_KOr, down_KrI), norms, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_residual_is_what_means_of_factors_miss(shape):
    up_KOr, down_KrI, share_K = clients(shape)
    up, down, share = up_KOr.numpy(), down_KrI.numpy(), share_K.numpy()
    product_of_means = np.einsum("k,kor->or", share, up) @ np.einsum("k,kri->ri", share, down)
    wanted = np.einsum("k,kor,kri->oi", share, up, down) - product_of_means
    np.testing.assert_allclose(dense(averaging_residual(up_KOr, down_KrI, share_K)), wanted, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_cutting_is_the_best_matrix_of_a_rank(shape, rank):
    up_KOr, down_KrI, share_K = clients(shape)
    stack = stacked(up_KOr, down_KrI, share_K)
    left, values, right = np.linalg.svd(dense(stack))
    kept = min(rank, len(values))
    wanted = left[:, :kept] * values[:kept] @ right[:kept]
    found = singular(stack)
    np.testing.assert_allclose(found.values_Q, values[: len(found.values_Q)], rtol=1e-10)
    old = torch.full((rank, shape[3]), 7.0, dtype=torch.float64)
    factors = cut(found, rank, 0.5, old)
    np.testing.assert_allclose(0.5 * dense(factors), wanted, atol=1e-12)
    unused = len(found.values_Q)
    assert (factors.up_OR[:, unused:] == 0).all() and (factors.down_RI[unused:] == 7).all()


def test_nothing_has_no_singular_values():
    zero = Factors(torch.zeros(4, 3, dtype=torch.float64), torch.ones(3, 5, dtype=torch.float64))
    assert len(singular(zero).values_Q) == 0
