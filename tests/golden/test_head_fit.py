"""What a server does to cores of the head branch on public rows, against the formulas written out in NumPy."""

from __future__ import annotations

import numpy as np
import torch

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.head_fit import common_answer, coordinates, fit_core


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_a_core_is_the_ridge_regression_over_all_types_that_share_it():
    inputs, wanted = [draw(40, 5), draw(60, 5, seed=1)], [draw(40, 3, seed=2), draw(60, 3, seed=3)]
    x, y = np.concatenate(inputs), np.concatenate(wanted)
    gram = x.T @ x / 100
    expected = np.linalg.solve(gram + 0.01 * np.trace(gram) / 5 * np.eye(5), x.T @ y / 100)
    np.testing.assert_allclose(fit_core(inputs, wanted), expected, rtol=1e-10)


def test_a_core_in_other_coordinates_of_the_same_space_adds_nearly_the_same():
    states, core = draw(500, 6).float(), draw(5, 3)
    old, new = (HeadFrame(draw(4, 6, seed=s).float(), draw(6, seed=s).float(), torch.eye(3)) for s in (1, 2))
    new.down_RD.copy_(torch.linalg.qr(draw(4, 4, seed=3))[0].float() @ old.down_RD)
    before = coordinates(states, old) @ core
    after = coordinates(states, new) @ fit_core([coordinates(states, new)], [before], ridge=1e-6)
    assert (before - after).norm() < 1e-3 * before.norm()
    np.testing.assert_allclose(coordinates(states, old)[:, :4], (states - old.mean_D) @ old.down_RD.T, rtol=1e-4)


def test_the_common_answer_is_the_mean_of_probabilities():
    logits = [torch.tensor([[0.0, 0.0, 9.0]]).double(), torch.tensor([[2.0, 0.0, 0.0]]).double()]
    mean = np.mean([np.exp(z) / np.exp(z).sum() for z in (each.numpy() for each in logits)], axis=0)
    np.testing.assert_allclose(torch.softmax(common_answer(logits), dim=1), mean, rtol=1e-6)
    assert abs(common_answer(logits).sum()) < 1e-12
