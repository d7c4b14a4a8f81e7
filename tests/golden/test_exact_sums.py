"""Exact sums and blocked dot products against plain Python: integers of any size, and additions one by one."""

from __future__ import annotations

import numpy as np
import torch

from heterotune.aggregation.exact import ExactSum, blocked_dot


def exact_sum_slowly(update_KP: np.ndarray, weight_K: np.ndarray) -> list[float]:
    """Python's integers do not overflow and its round() rounds ties to even."""
    totals = []
    for column in range(update_KP.shape[1]):
        total = 0
        for weight, value in zip(weight_K.tolist(), update_KP[:, column].tolist(), strict=True):
            total += round(weight * value * 2**50)
        totals.append(total / 2**50)
    return totals


def blocked_dot_slowly(a: list[float], b: list[float]) -> float:
    """Fold each block's products in halves, then add the blocks first to last."""
    total = 0.0
    for start in range(0, len(a), 65_536):
        block = [x * y for x, y in zip(a[start : start + 65_536], b[start : start + 65_536], strict=True)]
        block += [0.0] * (65_536 - len(block))
        while len(block) > 1:
            half = len(block) // 2
            block = [block[k] + block[half + k] for k in range(half)]
        total += block[0]
    return total


def test_exact_sum_equals_python_integers_bit_for_bit():
    drawn = np.random.default_rng(11)
    for num_clients in (1, 2, 9):
        scales = 10.0 ** drawn.uniform(-12, 3.5, size=(num_clients, 200))
        update_KP = (drawn.uniform(-1, 1, size=(num_clients, 200)) * scales).astype(np.float32)
        weight_K = drawn.dirichlet(np.ones(num_clients)) * (1 - 1e-12)
        exact_sum = ExactSum(200)
        exact_sum.add(torch.from_numpy(update_KP), torch.from_numpy(weight_K), range(num_clients))
        assert exact_sum.to_float64().tolist() == exact_sum_slowly(update_KP, weight_K)


def test_blocked_dot_equals_additions_one_by_one_bit_for_bit():
    drawn = np.random.default_rng(12)
    for num_elements in (1, 5, 1000, 65_536, 150_000):
        a_P, b_P = drawn.normal(size=(2, num_elements))
        got = blocked_dot(torch.from_numpy(a_P), torch.from_numpy(b_P))
        assert got == blocked_dot_slowly(a_P.tolist(), b_P.tolist())
