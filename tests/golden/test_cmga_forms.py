"""The forms of CMGA against their formulas in NumPy, on vectors, and against SciPy's SLSQP where they are optima."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from heterotune.aggregation.cmga import align
from heterotune.aggregation.directions import agreeing, aligned, common_descent, conflict_averse, vaccinated
from heterotune.aggregation.min_norm import shortest_in_hull

SIZES = [(2, 3), (2, 50), (3, 4), (4, 3), (5, 40), (8, 6)]


def drawn(num_types: int, num_elements: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Updates of very different length, and weights."""
    draw = np.random.default_rng([num_types, num_elements, seed])
    update_MP = draw.normal(size=(num_types, num_elements)) * draw.uniform(0.05, 5.0, size=(num_types, 1))
    return update_MP, draw.dirichlet(np.ones(num_types))


def through(form, update_MP, weight_M, targets_MM=None):
    """What the engine makes of them, not rescaled."""
    return align(
        torch.from_numpy(update_MP),
        weight_M=torch.from_numpy(weight_M),
        rescale=False,
        form=form,
        targets_MM=None if targets_MM is None else torch.from_numpy(targets_MM),
    )


def on_simplex(objective, num_types: int) -> np.ndarray:
    """The least value of an objective of weights, from several starts."""
    starts = [np.full(num_types, 1.0 / num_types), *np.eye(num_types) * 0.9 + 0.1 / num_types]
    rule = {"type": "eq", "fun": lambda weights: weights.sum() - 1.0}
    options = {"maxiter": 2000, "ftol": 1e-15}
    bounds = [(0.0, 1.0)] * num_types
    found = [minimize(objective, s, bounds=bounds, constraints=rule, method="SLSQP", options=options) for s in starts]
    return min(found, key=lambda result: result.fun).x


@pytest.mark.parametrize(("num_types", "num_elements"), SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_mgda_is_the_shortest_vector_of_the_hull(num_types, num_elements, seed):
    update_MP, weight_M = drawn(num_types, num_elements, seed)
    got_P, _ = through(common_descent, update_MP, weight_M)
    scale = np.abs(update_MP).max()
    wanted = on_simplex(lambda w: ((w @ update_MP / scale) ** 2).sum(), num_types) @ update_MP
    assert np.linalg.norm(got_P.numpy()) <= np.linalg.norm(wanted) * (1 + 1e-9) + 1e-9 * scale
    np.testing.assert_allclose(got_P.numpy(), wanted, atol=2e-4 * scale)
    norm_square = float(got_P @ got_P)
    assert (update_MP @ got_P.numpy() >= norm_square - 1e-9 * scale**2 * num_elements).all()


def test_mgda_of_two_is_the_closed_form():
    for seed in range(20):
        update_MP, weight_M = drawn(2, 3, 100 + seed)
        first, second = update_MP
        gamma = np.clip((second - first) @ second / ((first - second) ** 2).sum(), 0.0, 1.0)
        got_P, _ = through(common_descent, update_MP, weight_M)
        np.testing.assert_allclose(got_P.numpy(), gamma * first + (1 - gamma) * second, rtol=1e-9, atol=1e-12)


def cagrad(update_MP: np.ndarray, weight_M: np.ndarray, radius: float) -> np.ndarray:
    """max over d of min <g_i, d> in the ball, by its dual: u = Σ λ_i g_i of least <u, mean> + radius |mean| |u|."""
    mean_P = weight_M @ update_MP
    reach, scale = radius * np.linalg.norm(mean_P), (mean_P**2).sum()

    def dual(w):
        u_P = w @ update_MP
        return (u_P @ mean_P + reach * np.sqrt((u_P**2).sum() + 1e-16)) / scale

    u_P = on_simplex(dual, len(update_MP)) @ update_MP
    return mean_P + reach * u_P / np.linalg.norm(u_P)


@pytest.mark.parametrize("radius", [0.2, 0.4, 0.8])
@pytest.mark.parametrize(("num_types", "num_elements"), SIZES)
def test_cagrad_serves_the_worst_as_well_as_scipys_optimum(num_types, num_elements, radius):
    for seed in range(3):
        update_MP, weight_M = drawn(num_types, num_elements, seed)
        got_P, _ = through(partial(conflict_averse, radius=radius), update_MP, weight_M)
        mean_P = weight_M @ update_MP
        assert np.linalg.norm(got_P.numpy() - mean_P) <= radius * np.linalg.norm(mean_P) * (1 + 1e-9)
        worst, wanted = (update_MP @ got_P.numpy()).min(), (update_MP @ cagrad(update_MP, weight_M, radius)).min()
        scale = np.linalg.norm(mean_P) * np.linalg.norm(update_MP, axis=1).min()
        assert worst >= wanted - 1e-5 * scale
        assert worst <= wanted + 1e-3 * scale, "SLSQP found no optimum: a case that tells nothing"


@pytest.mark.parametrize(("num_types", "num_elements"), [(2, 3), (3, 4), (5, 40)])
def test_gradvac_over_rounds(num_types, num_elements):
    beta, targets_MM, kept_MM = 0.3, np.zeros((num_types, num_types)), None
    is_turned = 0
    for seed in range(5):
        update_MP, weight_M = drawn(num_types, num_elements, seed)
        update_MP = update_MP + 0.5  # cosines above 0, so that targets rise and bite
        g = [row.copy() for row in update_MP]
        for i in range(num_types):
            for j in range(num_types):
                if i == j:
                    continue
                norm_i, norm_j = np.linalg.norm(g[i]), np.linalg.norm(update_MP[j])
                cosine, target = g[i] @ update_MP[j] / (norm_i * norm_j), targets_MM[i, j]
                if cosine < target:
                    is_turned += 1
                    factor = norm_i * (target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2))
                    g[i] = g[i] + factor / (norm_j * np.sqrt(1 - target**2)) * update_MP[j]
                    assert g[i] @ update_MP[j] / np.linalg.norm(g[i]) / norm_j == pytest.approx(target, abs=1e-9)
                targets_MM[i, j] = (1 - beta) * target + beta * cosine
        got_P, seen = through(partial(vaccinated, beta=beta), update_MP, weight_M, kept_MM)
        kept_MM = seen.targets_MM.numpy()
        np.testing.assert_allclose(got_P.numpy(), weight_M @ np.array(g), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(kept_MM, targets_MM, rtol=1e-9, atol=1e-12)
    assert is_turned > 0


@pytest.mark.parametrize(("num_types", "num_elements"), [(2, 3), (3, 4), (5, 40)])
def test_aligned_mtl_by_singular_values(num_types, num_elements):
    """Procrustes: with G = P S Q^T, the aligned rows are s_min P Q^T."""
    update_MP, weight_M = drawn(num_types, num_elements, 7)
    left, values, right = np.linalg.svd(update_MP, full_matrices=False)
    aligned_MP = values.min() * left @ right
    got_P, seen = through(aligned, update_MP, weight_M)
    np.testing.assert_allclose(got_P.numpy(), weight_M @ aligned_MP, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(seen.cosine_after.numpy(), np.eye(num_types), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(aligned_MP, axis=1), values.min())


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_cosine_weights(power):
    for seed in range(10):
        update_MP, weight_M = drawn(4, 3, seed)
        mean_P = weight_M @ update_MP
        cosines = update_MP @ mean_P / np.linalg.norm(update_MP, axis=1) / np.linalg.norm(mean_P)
        found = weight_M * np.where(cosines > 0, np.maximum(cosines, 0) ** power, 0.0)
        got_P, seen = through(partial(agreeing, power=power), update_MP, weight_M)
        np.testing.assert_allclose(got_P.numpy(), found / found.sum() @ update_MP, rtol=1e-9, atol=1e-12)
        to_result = update_MP @ got_P.numpy() / np.linalg.norm(update_MP, axis=1) / np.linalg.norm(got_P.numpy())
        np.testing.assert_allclose(seen.cosine_after.numpy(), to_result, atol=1e-9)


def test_what_is_logged_of_every_form():
    update_MP, weight_M = drawn(3, 4, 3)
    norms = np.linalg.norm(update_MP, axis=1)
    similarity = 2 * np.outer(norms, norms) / (norms[:, None] ** 2 + norms[None, :] ** 2)
    for form in (common_descent, aligned, partial(conflict_averse, radius=0.4)):
        got_P, seen = through(form, update_MP, weight_M)
        np.testing.assert_allclose(seen.magnitude_MM.numpy(), similarity)
        assert seen.norm_ratio == pytest.approx(np.linalg.norm(got_P.numpy()) / np.linalg.norm(weight_M @ update_MP))
        assert seen.min_alignment == pytest.approx((update_MP @ got_P.numpy()).min())
        assert seen.num_conflicts == int((update_MP @ update_MP.T < 0)[np.triu_indices(3, 1)].sum())


def test_many_vectors_come_to_the_optimum_too():
    for seed in range(5):
        update_MP, _ = drawn(40, 30, seed)
        update_MP += 1.0  # so that 0 is not in the hull
        lambda_M = shortest_in_hull(update_MP @ update_MP.T)
        shortest_P = lambda_M @ update_MP
        assert lambda_M.min() >= 0 and lambda_M.sum() == pytest.approx(1.0)
        norm_square = (shortest_P**2).sum()
        assert (update_MP @ shortest_P).min() >= norm_square * (1 - 1e-6), "Karush, Kuhn and Tucker"
