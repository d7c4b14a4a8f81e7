"""Robust rules: no order of clients changes a bit, and f hostile clients cannot do what each rule says they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heterotune.aggregation.robust import coordinate_median, exact_mean, krum, multi_krum, robust_update, trimmed_mean
from heterotune.config.fault_options import AggregateOptions

NUM_ELEMENTS = 3
VALUES = st.floats(-100.0, 100.0, width=32)
HOSTILE = st.floats(-(2.0**100), 2.0**100, width=32)


def rows(values: st.SearchStrategy[float], low: int, high: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(values, min_size=NUM_ELEMENTS, max_size=NUM_ELEMENTS), min_size=low, max_size=high)


def tensor(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(len(values), NUM_ELEMENTS)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "norm_clipping", "krum", "multi_krum"])
@given(data=st.data())
def test_the_order_of_clients_changes_no_bit(rule, data):
    update_KP = tensor(data.draw(rows(st.one_of(VALUES, st.sampled_from([0.0, -0.0, 1.0])), 5, 9)))
    num_clients = len(update_KP)
    weight_K = torch.tensor(data.draw(st.lists(st.integers(1, 99), min_size=num_clients, max_size=num_clients)))
    weight_K = weight_K.double() / int(weight_K.sum())
    order = data.draw(st.permutations(range(num_clients)))
    options = AggregateOptions(rule=rule, max_norm=50.0 if rule == "norm_clipping" else None)
    got = robust_update(update_KP, weight_K, list(range(10, 10 + num_clients)), options)
    again = robust_update(update_KP[order], weight_K[order], [10 + place for place in order], options)
    assert got[0].numpy().tobytes() == again[0].numpy().tobytes() and got[1] == again[1]


@given(values=rows(VALUES, 1, 9))
def test_where_nothing_is_cut_the_rules_are_the_mean(values):
    update_KP = tensor(values)
    num_clients = len(values)
    share_K = torch.full((num_clients,), 1 / num_clients, dtype=torch.float64)
    mean_P = exact_mean(update_KP, share_K, range(num_clients))
    np.testing.assert_allclose(trimmed_mean(update_KP, range(num_clients), num_trimmed=0), mean_P, atol=1e-11)
    if num_clients >= 3:
        got_P, _ = multi_krum(update_KP, share_K, range(num_clients), num_attackers=0, num_selected=num_clients)
        np.testing.assert_allclose(got_P, mean_P, atol=1e-11)
    same_KP = update_KP[:1].expand(num_clients, NUM_ELEMENTS)
    assert torch.equal(coordinate_median(same_KP, range(num_clients)), update_KP[0].double())


@given(honest=rows(VALUES, 2, 7), data=st.data())
def test_hostile_clients_cannot_move_median_and_trimmed_mean_out_of_the_honest_range(honest, data):
    hostile = data.draw(rows(HOSTILE, 0, len(honest) - 1))
    update_KP = tensor(honest + hostile)[data.draw(st.permutations(range(len(honest) + len(hostile))))]
    low_P, high_P = tensor(honest).double().aminmax(dim=0)
    rounding = 1e-12 * float(tensor(honest).abs().max())  # a mean of equal values may round away from them
    for got_P in (
        coordinate_median(update_KP, range(len(update_KP))),
        trimmed_mean(update_KP, range(len(update_KP)), num_trimmed=len(hostile)),
    ):
        assert (got_P >= low_P - rounding).all() and (got_P <= high_P + rounding).all()


@given(honest=rows(st.floats(-1.0, 1.0, width=32), 4, 8), data=st.data())
def test_krum_picks_an_honest_client_and_multi_krum_all_of_them(honest, data):
    num_honest = len(honest)
    num_attackers = data.draw(st.integers(1, num_honest - 3))  # K = honest + f >= 2f + 3
    far = data.draw(rows(st.floats(1e3, 1e6, width=32), num_attackers, num_attackers))  # alone or hand in hand
    update_KP = tensor(honest + far)
    order = data.draw(st.permutations(range(len(update_KP))))
    _, chosen = krum(update_KP[order], order, num_attackers=num_attackers)
    assert chosen[0] < num_honest
    share_K = torch.full((len(update_KP),), 1 / len(update_KP), dtype=torch.float64)
    _, chosen = multi_krum(update_KP[order], share_K, order, num_attackers=num_attackers, num_selected=num_honest)
    assert chosen == tuple(range(num_honest))
