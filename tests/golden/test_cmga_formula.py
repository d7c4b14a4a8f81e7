"""CMGA against its formula, transcribed to NumPy as the design has it: on vectors, with g = -update, no Gram matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.aggregation.cmga import align


def cmga_formula(update_MP: np.ndarray, weight_M: np.ndarray, rescale: bool) -> np.ndarray:
    """g_m = -update_m; g'_i = g_i - sum over j of negative <g'_i, g_j> / |g_j|^2 g_j; g = sum of w_m g'_m; minus g."""
    g = [-row for row in update_MP]
    projected = []
    for i in range(len(g)):
        g_i = g[i].copy()
        for j in range(len(g)):
            if j != i and np.dot(g_i, g[j]) < 0:
                g_i = g_i - np.dot(g_i, g[j]) / np.dot(g[j], g[j]) * g[j]
        projected.append(g_i)
    plain = sum(w * g_m for w, g_m in zip(weight_M, g, strict=True))
    combined = sum(w * g_m for w, g_m in zip(weight_M, projected, strict=True))
    if rescale:
        combined = combined * np.linalg.norm(plain) / np.linalg.norm(combined)
    return -combined


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("num_elements", [3, 50, 70_000])
@pytest.mark.parametrize("num_types", [2, 3, 4, 6])
def test_align_equals_the_formula(num_types, num_elements, rescale):
    conflicts = 0
    for seed in range(10 if num_elements < 1000 else 2):
        drawn = np.random.default_rng([num_types, num_elements, seed])
        update_MP = drawn.normal(size=(num_types, num_elements)) * drawn.uniform(0.01, 10.0, size=(num_types, 1))
        weight_M = drawn.dirichlet(np.ones(num_types))
        got_P, diagnostics = align(torch.from_numpy(update_MP), weight_M=torch.from_numpy(weight_M), rescale=rescale)
        expected_P = cmga_formula(update_MP, weight_M, rescale)
        np.testing.assert_allclose(got_P.numpy(), expected_P, rtol=0, atol=1e-10 * np.linalg.norm(expected_P))
        _check_diagnostics(diagnostics, update_MP, weight_M, expected_P)
        conflicts += diagnostics.num_conflicts
    assert conflicts > 0, "the cases must have conflicts"


def _check_diagnostics(diagnostics, update_MP: np.ndarray, weight_M: np.ndarray, expected_P: np.ndarray) -> None:
    """Each logged number by its own definition."""
    unit_MP = update_MP / np.linalg.norm(update_MP, axis=1, keepdims=True)
    cosine_MM = unit_MP @ unit_MP.T
    np.testing.assert_allclose(diagnostics.cosine_MM.numpy(), cosine_MM, atol=1e-12)
    assert diagnostics.num_conflicts == int((cosine_MM[np.triu_indices(len(cosine_MM), 1)] < 0).sum())
    scale = np.linalg.norm(expected_P) * np.linalg.norm(update_MP, axis=1).max()
    assert diagnostics.min_alignment == pytest.approx((update_MP @ expected_P).min(), abs=1e-9 * scale)
    unscaled_norm = np.linalg.norm(cmga_formula(update_MP, weight_M, rescale=False))
    assert diagnostics.norm_ratio == pytest.approx(unscaled_norm / np.linalg.norm(weight_M @ update_MP), rel=1e-9)
