"""Alignment of the head branch against the formula of the design, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.adapters.alignment import align_types, label_basis, vocabulary_basis


def gcca_in_numpy(states, rank):
    """V_m = ((XᵀX/N + ρI)⁻¹ Xᵀ G / N)ᵀ with G the top left singular vectors of the whitened states, unit variance."""
    centred = [x - x.mean(axis=0) for x in states]
    num_rows = len(centred[0])
    whitened, covariances = [], []
    for x in centred:
        covariance = x.T @ x / num_rows
        covariance += 1e-2 * np.linalg.eigvalsh(covariance).mean() * np.eye(x.shape[1])
        values, vectors = np.linalg.eigh(covariance)
        whitened.append(x @ vectors @ np.diag(values**-0.5) @ vectors.T)
        covariances.append(covariance)
    left, _, _ = np.linalg.svd(np.concatenate(whitened, axis=1), full_matrices=False)
    common = left[:, :rank] * np.sqrt(num_rows)
    return [np.linalg.solve(c, x.T @ common / num_rows).T for c, x in zip(covariances, centred, strict=True)]


def related_states(seed=0, num_rows=400, widths=(6, 9), common=4):
    """Two views of the same latent variables, with noise of their own."""
    draw = np.random.default_rng(seed)
    latent = draw.standard_normal((num_rows, common))
    return [
        latent @ draw.standard_normal((common, w)) + 0.1 * draw.standard_normal((num_rows, w)) + draw.standard_normal(w)
        for w in widths
    ]


def test_gcca_is_the_formula_up_to_sign_and_scale():
    states = related_states()
    aligned = align_types([torch.from_numpy(x) for x in states], 3, "gcca", run_seed=0)
    for x, got, mean, expected in zip(states, aligned.down, aligned.mean, gcca_in_numpy(states, 3), strict=True):
        np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-5)
        for row, wanted in zip(got.double().numpy(), expected, strict=True):
            cosine = row @ wanted / np.linalg.norm(row) / np.linalg.norm(wanted)
            assert abs(cosine) == pytest.approx(1.0, abs=1e-6)
        coordinates = (x - x.mean(axis=0)) @ got.double().numpy().T
        np.testing.assert_allclose((coordinates**2).mean(axis=0), 1.0, rtol=1e-4)


def test_gcca_signs_agree_between_types():
    states = related_states()
    aligned = align_types([torch.from_numpy(x) for x in states], 3, "gcca", run_seed=0)
    a, b = ((x - x.mean(axis=0)) @ v.double().numpy().T for x, v in zip(states, aligned.down, strict=True))
    assert ((a * b).mean(axis=0) > 0.9).all()
    assert aligned.correlation == pytest.approx((a * b).mean(axis=0).mean(), rel=1e-4)


def test_gcca_aligns_best_and_random_maps_align_nothing():
    states = [torch.from_numpy(x) for x in related_states(widths=(12, 20), common=8)]
    found = {m: align_types(states, 4, m, run_seed=1).correlation for m in ("gcca", "procrustes", "pca", "none")}
    assert found["gcca"] > 0.9 and found["gcca"] >= found["procrustes"] > found["pca"]
    assert abs(found["none"]) < 0.5


def test_one_type_has_no_correlation():
    assert np.isnan(align_types([torch.randn(50, 6)], 2, "gcca", run_seed=0).correlation)


def test_the_vocabulary_basis_spans_the_leading_directions_of_all_embeddings():
    draw = np.random.default_rng(0)
    embeddings = [draw.standard_normal((40, 3)) @ draw.standard_normal((3, w)) for w in (5, 8)]
    basis = vocabulary_basis([torch.from_numpy(e) for e in embeddings], 4).double().numpy()
    together = np.concatenate([e / np.linalg.norm(e) for e in embeddings], axis=1)
    left, _, _ = np.linalg.svd(together, full_matrices=False)
    np.testing.assert_allclose((basis**2).mean(axis=1), 1.0, rtol=1e-5)
    overlap = np.abs(basis @ left[:, :4]) / np.sqrt(40)
    np.testing.assert_allclose(overlap, np.eye(4), atol=1e-4)


def test_a_label_basis_has_one_token_in_each_row():
    basis = label_basis([7, 2], 9)
    assert basis.nonzero().tolist() == [[0, 7], [1, 2]] and basis.sum() == 2
