"""CMGA leaves agreeing updates alone, and with two types never hurts one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from heterotune.aggregation.cmga import align

STEP = 2.0**-50
"""Aggregates are multiples of this."""


def updates(num_types: st.SearchStrategy[int], low: int) -> st.SearchStrategy[np.ndarray]:
    """Matrices of aggregates, from one step of 2^-50 up to 2^13."""
    shapes = st.tuples(num_types, st.integers(1, 6))
    elements = st.one_of(st.integers(max(low, -10), 10), st.integers(low, 2**62)).map(lambda count: count * STEP)
    return shapes.flatmap(lambda shape: hypothesis_numpy.arrays(np.float64, shape, elements=elements))


@st.composite
def weights(draw, num_types: int) -> np.ndarray:
    """Shares from integer token counts, as in a run."""
    counts = draw(st.lists(st.integers(1, 10**6), min_size=num_types, max_size=num_types))
    return np.array([count / sum(counts) for count in counts])


@given(update_MP=updates(st.integers(1, 5), low=0), rescale=st.booleans(), data=st.data())
def test_agreeing_updates_give_exactly_the_weighted_mean(update_MP, rescale, data):
    weight_M = data.draw(weights(len(update_MP)))
    got_P, diagnostics = align(torch.from_numpy(update_MP), weight_M=torch.from_numpy(weight_M), rescale=rescale)
    expected_P = update_MP[0] * weight_M[0]
    for row_P, weight in zip(update_MP[1:], weight_M[1:], strict=True):
        expected_P = expected_P + row_P * weight
    np.testing.assert_array_equal(got_P.numpy(), expected_P)
    assert diagnostics.num_conflicts == 0 and diagnostics.norm_ratio == 1.0 and diagnostics.min_alignment >= 0.0


@given(update_MP=updates(st.just(2), low=-(2**62)), rescale=st.booleans(), data=st.data())
def test_two_types_are_never_hurt(update_MP, rescale, data):
    weight_M = data.draw(weights(2))
    got_P, diagnostics = align(torch.from_numpy(update_MP), weight_M=torch.from_numpy(weight_M), rescale=rescale)
    norms = np.linalg.norm(update_MP, axis=1)
    rounding = 1e-9 * np.linalg.norm(got_P.numpy()) * norms.max() + 1e-14 * norms.max() ** 2
    assert diagnostics.min_alignment >= -rounding
    assert (update_MP @ got_P.numpy() >= -rounding).all()


@given(update_MP=updates(st.integers(2, 5), low=-(2**62)), data=st.data())
def test_results_are_finite_and_rescaling_keeps_the_norm(update_MP, data):
    weight_M = data.draw(weights(len(update_MP)))
    got_P, diagnostics = align(torch.from_numpy(update_MP), weight_M=torch.from_numpy(weight_M), rescale=True)
    mean_norm = np.linalg.norm(weight_M @ update_MP)
    assert torch.isfinite(got_P).all() and torch.isfinite(diagnostics.cosine_MM).all()
    assert np.isfinite([diagnostics.norm_ratio, diagnostics.min_alignment]).all()
    if diagnostics.norm_ratio > 1e-5:
        np.testing.assert_allclose(np.linalg.norm(got_P.numpy()), mean_norm, rtol=1e-6, atol=1e-9)
