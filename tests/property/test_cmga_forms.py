"""What each form of CMGA promises, on any updates; and what it does where there is nothing to decide."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from heterotune.aggregation.cmga import align
from heterotune.aggregation.directions import (
    agreeing,
    aligned,
    common_descent,
    conflict_averse,
    projected,
    vaccinated,
)

FORMS = {
    "project": projected,
    "cagrad": partial(conflict_averse, radius=0.4),
    "mgda": common_descent,
    "gradvac": partial(vaccinated, beta=0.5),
    "aligned_mtl": aligned,
    "cosine": partial(agreeing, power=1.0),
}
NEVER_HURTS_TWO = ("project", "mgda", "gradvac")
"""With two tasks: cagrad promises it only for a large enough radius, aligned_mtl and cosine not at all."""
ELEMENTS = st.one_of(st.integers(-4, 4), st.integers(-(2**40), 2**40)).map(lambda count: count * 2.0**-20)


def updates(num_tasks: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(num_tasks, st.integers(1, 6))
    return shapes.flatmap(lambda shape: hypothesis_numpy.arrays(np.float64, shape, elements=ELEMENTS))


@st.composite
def cases(draw, num_tasks: st.SearchStrategy[int]) -> tuple[np.ndarray, np.ndarray]:
    """Updates and weights."""
    update_MP = draw(updates(num_tasks))
    counts = draw(st.lists(st.integers(1, 1000), min_size=len(update_MP), max_size=len(update_MP)))
    return update_MP, np.array(counts) / sum(counts)


def through(form, update_MP, weight_M, *, rescale=False):
    got_P, seen = align(
        torch.from_numpy(update_MP), weight_M=torch.from_numpy(weight_M), rescale=rescale, form=FORMS.get(form, form)
    )
    return got_P.numpy(), seen


def slack(update_MP: np.ndarray, got_P: np.ndarray) -> float:
    """What rounding may do to a dot product of the result with an update."""
    largest = np.linalg.norm(update_MP, axis=1).max()
    return 1e-6 * (np.linalg.norm(got_P) * largest + largest**2 * 1e-6) + 1e-300


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases(st.integers(2, 6)), rescale=st.booleans())
def test_everything_is_finite_and_in_range(form, case, rescale):
    got_P, seen = through(form, *case, rescale=rescale)
    assert np.isfinite(got_P).all() and np.isfinite([seen.norm_ratio, seen.min_alignment]).all()
    for table in (seen.cosine_MM, seen.cosine_after):
        assert (table.abs() <= 1.0).all()
    assert ((seen.magnitude_MM >= 0.0) & (seen.magnitude_MM <= 1.0 + 1e-12)).all()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases(st.integers(2, 5)))
def test_rescaling_keeps_the_norm_of_the_mean(form, case):
    update_MP, weight_M = case
    got_P, seen = through(form, update_MP, weight_M, rescale=True)
    if seen.norm_ratio > 1e-5:
        mean_norm = np.linalg.norm(weight_M @ update_MP)
        np.testing.assert_allclose(np.linalg.norm(got_P), mean_norm, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", ["project", "gradvac"])
@settings(max_examples=40)
@given(update_MP=updates(st.integers(2, 5)))
def test_without_a_conflict_the_weighted_mean(form, update_MP):
    update_MP = np.abs(update_MP)
    weight_M = np.full(len(update_MP), 1.0 / len(update_MP))
    plain, seen = through(lambda gram, weights, kept: projected(gram, weights), update_MP, weight_M)
    got_P, _ = through(form, update_MP, weight_M)
    np.testing.assert_array_equal(got_P, plain)
    np.testing.assert_allclose(got_P, weight_M @ update_MP, rtol=1e-12, atol=1e-300)
    assert seen.num_conflicts == 0


@pytest.mark.parametrize("form", NEVER_HURTS_TWO)
@settings(max_examples=40)
@given(case=cases(st.just(2)))
def test_of_two_none_is_hurt(form, case):
    update_MP, weight_M = case
    got_P, seen = through(form, update_MP, weight_M)
    assert seen.min_alignment >= -slack(update_MP, got_P)
    assert (update_MP @ got_P >= -slack(update_MP, got_P)).all()


@settings(max_examples=40)
@given(case=cases(st.integers(2, 5)))
def test_cagrad_without_a_radius_is_the_mean_bit_for_bit(case):
    update_MP, weight_M = case
    got_P, seen = through(partial(conflict_averse, radius=0.0), update_MP, weight_M, rescale=True)
    expected_P = update_MP[0] * weight_M[0]
    for row_P, weight in zip(update_MP[1:], weight_M[1:], strict=True):
        expected_P = expected_P + row_P * weight
    np.testing.assert_array_equal(got_P, expected_P)
    assert seen.norm_ratio == 1.0


@settings(max_examples=40)
@given(case=cases(st.integers(2, 6)))
def test_cagrad_serves_the_worst_no_worse_than_the_mean_does(case):
    update_MP, weight_M = case
    got_P, _ = through("cagrad", update_MP, weight_M)
    mean_P, moved = weight_M @ update_MP, np.abs(update_MP).max(axis=1) > 0
    assert np.linalg.norm(got_P - mean_P) <= 0.4 * np.linalg.norm(mean_P) * (1 + 1e-6) + 1e-12 * np.abs(update_MP).max()
    if moved.any():
        assert (update_MP @ got_P)[moved].min() >= (update_MP @ mean_P)[moved].min() - slack(update_MP, got_P)


@settings(max_examples=40)
@given(case=cases(st.integers(2, 6)))
def test_mgda_moves_every_task_as_far_as_itself(case):
    update_MP, weight_M = case
    got_P, _ = through("mgda", update_MP, weight_M)
    moved = np.abs(update_MP).max(axis=1) > 0
    assert ((update_MP @ got_P)[moved] >= got_P @ got_P - slack(update_MP, got_P)).all()


@settings(max_examples=40)
@given(case=cases(st.integers(2, 4)))
def test_aligned_updates_are_orthogonal_and_equally_long(case):
    update_MP, weight_M = case
    _, seen = through("aligned_mtl", update_MP, weight_M)
    moved = update_MP[np.abs(update_MP).max(axis=1) > 0]
    values = np.linalg.svd(moved / np.abs(moved).max(), compute_uv=False) if len(moved) else np.zeros(1)
    if len(moved) == len(update_MP) <= update_MP.shape[1] and values.min() > 1e-3 * values.max():
        off_diagonal = seen.cosine_after - torch.diag(seen.cosine_after.diagonal())
        assert off_diagonal.abs().max() < 1e-6


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(row=hypothesis_numpy.arrays(np.float64, 4, elements=ELEMENTS), num_tasks=st.integers(2, 5))
def test_identical_updates_stay(form, row, num_tasks):
    update_MP, weight_M = np.tile(row, (num_tasks, 1)), np.full(num_tasks, 1.0 / num_tasks)
    got_P, seen = through(form, update_MP, weight_M, rescale=True)
    np.testing.assert_allclose(got_P, row, rtol=1e-6, atol=1e-9 * np.abs(row).max())
    assert seen.num_conflicts == 0


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(update_MP=updates(st.just(1)))
def test_one_task_stays(form, update_MP):
    got_P, _ = through(form, update_MP, np.ones(1), rescale=True)
    np.testing.assert_allclose(got_P, update_MP[0], rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(case=cases(st.integers(2, 4)))
def test_an_update_of_zero_has_no_say_in_the_direction(form, case):
    update_MP, weight_M = case
    with_zero = np.vstack([update_MP, np.zeros((1, update_MP.shape[1]))])
    got_P, _ = through(form, with_zero, np.append(weight_M / 2, 0.5))
    alone_P, _ = through(form, update_MP, weight_M)
    scale = max(np.linalg.norm(alone_P), np.linalg.norm(got_P))
    if scale > 1e-6 * np.linalg.norm(update_MP, axis=1).max():
        cosine = got_P @ alone_P / max(np.linalg.norm(got_P) * np.linalg.norm(alone_P), 1e-300)
        assert cosine > 1 - 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_nothing_moved_nothing_changes(form):
    got_P, seen = through(form, np.zeros((3, 4)), np.array([0.2, 0.3, 0.5]), rescale=True)
    assert not got_P.any() and seen.norm_ratio == 1.0 and not seen.magnitude_MM.any()


@pytest.mark.parametrize("form", FORMS)
def test_opposite_updates_cancel_or_one_of_them_wins(form):
    """The mean of two opposite updates of one length is 0, and no direction serves both."""
    update_MP = np.array([[1.0, 2.0], [-1.0, -2.0]])
    got_P, seen = through(form, update_MP, np.array([0.5, 0.5]), rescale=True)
    assert np.abs(got_P).max() < 1e-12 and np.isfinite(seen.norm_ratio)
