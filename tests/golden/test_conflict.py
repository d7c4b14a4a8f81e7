"""CMGA over the rounds of a task with built-in conflict, against the same federation in NumPy, formulas and all.

Independent of the engine: softmax regression by gradient descent, the mean over clients, and every form's formula for
two model types on whole vectors (CAGrad by a bounded search, Aligned-MTL by a singular value decomposition).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from heterotune.config.heterotune_options import HeterotuneOptions

ROOT = Path(__file__).parents[2]
FORMS = ("none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine")


@pytest.fixture(scope="module")
def task() -> Iterator[SimpleNamespace]:
    before, known = list(sys.path), "conflict_task" in sys.modules
    sys.path[:0] = [str(ROOT / "tools" / "experiments")]
    yield importlib.import_module("conflict_task")
    sys.path[:] = before
    if not known:
        sys.modules.pop("conflict_task", None)


@pytest.fixture(scope="module")
def opposed(task):
    """Two types that name two classes the wrong way round to each other; one has nine tenths of the rows."""
    return task.Setting("opposed", (9, 1), ("plain", "opposed"), 60, 1, 1.0)


def project(update_MP, weight_M, targets_MM):
    first, second = update_MP
    dot = min(first @ second, 0.0)
    parts = np.stack([first - dot / (second @ second) * second, second - dot / (first @ first) * first])
    return weight_M @ parts


def cagrad(update_MP, weight_M, targets_MM, radius=0.4):
    mean_P = weight_M @ update_MP
    reach = radius * np.linalg.norm(mean_P)

    def dual(share):
        u_P = share * update_MP[0] + (1 - share) * update_MP[1]
        return u_P @ mean_P + reach * np.linalg.norm(u_P)

    share = minimize_scalar(dual, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-12}).x
    share = min((0.0, 1.0, share), key=dual)
    u_P = share * update_MP[0] + (1 - share) * update_MP[1]
    return mean_P + reach * u_P / np.linalg.norm(u_P)


def mgda(update_MP, weight_M, targets_MM):
    first, second = update_MP
    share = np.clip((second - first) @ second / ((first - second) @ (first - second)), 0.0, 1.0)
    return share * first + (1 - share) * second


def gradvac(update_MP, weight_M, targets_MM, beta=0.5):
    parts = update_MP.copy()
    for i, j in ((0, 1), (1, 0)):
        norm_i, norm_j = np.linalg.norm(update_MP[i]), np.linalg.norm(update_MP[j])
        cosine, target = update_MP[i] @ update_MP[j] / norm_i / norm_j, targets_MM[i, j]
        if cosine < target:
            sine, other = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
            parts[i] += norm_i * (target * sine - cosine * other) / (norm_j * other) * update_MP[j]
        targets_MM[i, j] = (1 - beta) * target + beta * cosine
    return weight_M @ parts


def aligned_mtl(update_MP, weight_M, targets_MM):
    left_MM, lengths_M, right_MP = np.linalg.svd(update_MP, full_matrices=False)
    return lengths_M.min() * weight_M @ left_MM @ right_MP


def cosine(update_MP, weight_M, targets_MM):
    mean_P = weight_M @ update_MP
    cosines = update_MP @ mean_P / np.linalg.norm(update_MP, axis=1) / np.linalg.norm(mean_P)
    found = weight_M * np.maximum(cosines, 0.0)
    return found @ update_MP / found.sum()


def none(update_MP, weight_M, targets_MM):
    return weight_M @ update_MP


def simulate(task, setting, form, seed) -> np.ndarray:
    """Run the federation in NumPy; returns the matrix after the last round."""
    combine = globals()[form]
    maps = [task.label_map(kind, index, seed) for index, kind in enumerate(setting.kinds)]
    rows = [
        task.draw_rows(each, number, f"type {index}", seed)
        for index, (each, number) in enumerate(zip(maps, setting.clients, strict=True))
    ]
    weight_M = np.array(setting.clients) / sum(setting.clients)
    value, targets_MM = np.zeros((task.NUM_INPUTS, task.NUM_CLASSES)), np.zeros((2, 2))
    for _ in range(setting.rounds):
        update_MP = np.stack([trained(value, x.numpy(), y.numpy(), setting).mean(axis=0).ravel() for x, y in rows])
        mean_P, combined_P = weight_M @ update_MP, combine(update_MP, weight_M, targets_MM)
        combined_P = combined_P * np.linalg.norm(mean_P) / np.linalg.norm(combined_P)
        value = value + combined_P.reshape(value.shape)
    return value


def trained(value, input_KnD, label_Kn, setting) -> np.ndarray:
    """Each client's update by plain gradient descent."""
    updates = []
    for inputs, labels in zip(input_KnD.astype(np.float64), label_Kn, strict=True):
        own = value.copy()
        for _ in range(setting.local_steps):
            odds = np.exp(inputs @ own)
            error = odds / odds.sum(axis=1, keepdims=True) - np.eye(value.shape[1])[labels]
            own -= setting.learning_rate * inputs.T @ error / len(labels)
        updates.append(own - value)
    return np.stack(updates)


@pytest.mark.parametrize("form", FORMS)
def test_rounds_are_those_of_the_formula_in_numpy(task, opposed, form):
    setting = replace(opposed, rounds=12, local_steps=3)
    found = task.run(setting, HeterotuneOptions(cmga=form), seed=5).weights.numpy()
    wanted = simulate(task, setting, form, seed=5)
    assert np.abs(wanted).max() > 0.3
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    if form != "none":
        assert np.abs(wanted - simulate(task, setting, "none", seed=5)).max() > 1e-3, "a case that tells nothing"


def test_with_two_types_projection_hurts_none_and_the_mean_does(task, opposed):
    for seed in (1, 2, 3):
        assert task.run(opposed, HeterotuneOptions(cmga="project"), seed).num_hurt == 0
        assert task.run(opposed, HeterotuneOptions(cmga="none"), seed).num_hurt > 5


@pytest.mark.parametrize("form", ["project", "mgda", "cagrad"])
def test_the_type_of_few_rows_fares_better_than_under_the_mean(task, opposed, form):
    for seed in (1, 2, 3):
        aligned, plain = (task.run(opposed, HeterotuneOptions(cmga=each), seed) for each in (form, "none"))
        assert plain.losses[1] > plain.losses[0] + 0.2  # the mean leaves the few behind
        assert aligned.losses[1] < plain.losses[1] - 0.02


def test_where_nobody_disagrees_projection_gives_the_bits_of_the_mean(task):
    setting = task.Setting("agree", (4, 4), ("plain", "plain"), 8, 1, 1.0)
    plain, aligned = (task.run(setting, HeterotuneOptions(cmga=form), 1).weights for form in ("none", "project"))
    assert torch.equal(plain, aligned)
