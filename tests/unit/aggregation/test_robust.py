"""Every rule against a slow reference in plain loops, and every refusal."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
import torch

from heterotune.aggregation import distances, robust
from heterotune.aggregation.distances import clip_factors, squared_distances, squared_norm, update_norms
from heterotune.aggregation.exact import BLOCK, blocked_dot
from heterotune.aggregation.robust import (
    coordinate_median,
    exact_mean,
    krum,
    krum_scores,
    multi_krum,
    norm_clipping,
    robust_update,
    trimmed_mean,
)
from heterotune.config.fault_options import AggregateOptions
from heterotune.errors import AggregationError

IDS = [31, 4, 15, 9, 26, 5, 35]


def updates(num_clients: int, num_elements: int, dtype=torch.float32) -> torch.Tensor:
    draw = np.random.Generator(np.random.Philox(key=num_clients * 1000 + num_elements))
    return torch.from_numpy(draw.standard_normal((num_clients, num_elements))).to(dtype)


def uniform(num_clients: int) -> torch.Tensor:
    return torch.full((num_clients,), 1 / num_clients, dtype=torch.float64)


def slow_trimmed_mean(update_KP, num_trimmed):
    """The definition, one coordinate after another, in exact fractions."""
    result = []
    for column in zip(*update_KP.tolist(), strict=True):
        kept = sorted(column)[num_trimmed : len(column) - num_trimmed]
        result.append(float(sum(map(Fraction, kept)) / len(kept)))
    return result


def slow_krum_scores(update_KP, num_attackers):
    """The definition, one pair after another."""
    rows = update_KP.tolist()
    scores = []
    for i, mine in enumerate(rows):
        far = [math.fsum((a - b) ** 2 for a, b in zip(mine, other, strict=True)) for other in rows[:i] + rows[i + 1 :]]
        scores.append(math.fsum(sorted(far)[: len(rows) - num_attackers - 2]))
    return scores


@pytest.mark.parametrize("num_clients", [1, 2, 5, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_median_is_the_statisticians(num_clients, dtype):
    update_KP = updates(num_clients, 40, dtype)
    expected = [statistics.median(column) for column in zip(*update_KP.tolist(), strict=True)]
    got_P = coordinate_median(update_KP, IDS[:num_clients])
    assert got_P.dtype == torch.float64 and got_P.tolist() == expected


@pytest.mark.parametrize(("num_clients", "num_trimmed"), [(1, 0), (5, 0), (5, 1), (5, 2), (7, 3), (6, 2)])
def test_trimmed_mean_is_the_slow_one(num_clients, num_trimmed):
    update_KP = updates(num_clients, 40)
    got_P = trimmed_mean(update_KP, IDS[:num_clients], num_trimmed=num_trimmed)
    assert got_P.tolist() == pytest.approx(slow_trimmed_mean(update_KP, num_trimmed), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize(("num_clients", "num_attackers"), [(4, 0), (5, 1), (7, 1), (7, 2)])
def test_krum_scores_are_the_slow_ones(num_clients, num_attackers):
    update_KP = updates(num_clients, 40)
    got = krum_scores(squared_distances(update_KP, IDS[:num_clients]), num_attackers=num_attackers)
    expected = slow_krum_scores(update_KP, num_attackers)
    assert got == pytest.approx(expected, rel=1e-12)
    best = IDS[expected.index(min(expected))]
    assert krum(update_KP, IDS[:num_clients], num_attackers=num_attackers)[1] == (best,)


def test_tiles_change_no_bit(monkeypatch):
    update_KP = updates(5, 3 * BLOCK + 17)
    ids = IDS[:5]
    whole = coordinate_median(update_KP, ids), trimmed_mean(update_KP, ids, num_trimmed=1)
    pairs_KK = squared_distances(update_KP, ids)
    monkeypatch.setattr(robust, "_TILE_ELEMENTS", 5 * 1000)
    monkeypatch.setattr(distances, "_TILE_ELEMENTS", BLOCK)
    assert torch.equal(coordinate_median(update_KP, ids), whole[0])
    assert torch.equal(trimmed_mean(update_KP, ids, num_trimmed=1), whole[1])
    assert torch.equal(squared_distances(update_KP, ids), pairs_KK)


def test_norms_are_blocked_dot_products():
    a_P, b_P = updates(2, 2 * BLOCK + 5, torch.float64)
    assert squared_norm(a_P) == blocked_dot(a_P, a_P)
    assert squared_norm(a_P, b_P) == blocked_dot(a_P - b_P, a_P - b_P)
    assert squared_norm(a_P) == pytest.approx(float(a_P @ a_P))
    assert squared_norm(torch.zeros(0)) == 0.0
    assert update_norms(torch.stack([a_P, b_P]), [1, 2]).tolist() == [
        squared_norm(a_P) ** 0.5,
        squared_norm(b_P) ** 0.5,
    ]


def test_norm_clipping_is_the_mean_of_clipped_updates():
    update_KP = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    weight_K = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    got_P, unclipped = norm_clipping(update_KP, weight_K, [7, 3, 5], max_norm=1.0)
    assert got_P.tolist() == pytest.approx([0.5 * 0.6 + 0.25 * 0.3, 0.5 * 0.8 + 0.25 * 0.4], rel=1e-7)
    assert unclipped == (3, 5)


def test_clip_factors_keep_what_is_short_and_zero():
    norm_K = torch.tensor([0.0, 1.0, 2.0, 8.0], dtype=torch.float64)
    assert clip_factors(norm_K, 2.0).tolist() == [1.0, 1.0, 1.0, 0.25]


def test_norm_clipping_without_a_long_update_is_the_exact_mean():
    update_KP = updates(5, 40)
    got_P, unclipped = norm_clipping(update_KP, uniform(5), IDS[:5], max_norm=1e6)
    assert torch.equal(got_P, exact_mean(update_KP, uniform(5), IDS[:5])) and unclipped == tuple(sorted(IDS[:5]))


def test_multi_krum_weighs_the_chosen_by_their_rows():
    update_KP = torch.tensor([[1.0], [1.1], [0.9], [50.0], [1.05]])
    weight_K = torch.tensor([0.2, 0.1, 0.1, 0.5, 0.1], dtype=torch.float64)
    got_P, chosen = multi_krum(update_KP, weight_K, [8, 6, 7, 5, 9], num_attackers=1, num_selected=4)
    assert chosen == (6, 7, 8, 9)
    assert got_P.item() == pytest.approx((0.2 * 1.0 + 0.1 * 1.1 + 0.1 * 0.9 + 0.1 * 1.05) / 0.5, rel=1e-7)


def test_the_lower_id_wins_a_tie():
    assert krum(torch.zeros(5, 3), [9, 2, 7, 5, 3], num_attackers=1)[1] == (2,)


def test_a_hostile_update_that_no_sum_could_hold_does_not_stop_krum():
    update_KP = torch.cat([updates(5, 4), torch.full((1, 4), 3e38)])
    got_P, chosen = multi_krum(update_KP, uniform(6), IDS[:6], num_attackers=1, num_selected=5)
    assert set(chosen) == set(IDS[:5]) and torch.isfinite(got_P).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rule": "mean"}, lambda rows_KP: (exact_mean(rows_KP, uniform(7), IDS), tuple(sorted(IDS)))),
        ({"rule": "median"}, lambda rows_KP: (coordinate_median(rows_KP, IDS), tuple(sorted(IDS)))),
        (
            {"rule": "trimmed_mean", "attacker_share": 0.3},
            lambda rows_KP: (trimmed_mean(rows_KP, IDS, num_trimmed=2), tuple(sorted(IDS))),
        ),
        (
            {"rule": "norm_clipping", "max_norm": 2.0},
            lambda rows_KP: norm_clipping(rows_KP, uniform(7), IDS, max_norm=2.0),
        ),
        ({"rule": "krum", "attacker_share": 0.3}, lambda rows_KP: krum(rows_KP, IDS, num_attackers=2)),
        (
            {"rule": "multi_krum", "attacker_share": 0.3},
            lambda rows_KP: multi_krum(rows_KP, uniform(7), IDS, num_attackers=2, num_selected=5),
        ),
        (
            {"rule": "multi_krum", "attacker_share": 0.3, "num_selected": 2},
            lambda rows_KP: multi_krum(rows_KP, uniform(7), IDS, num_attackers=2, num_selected=2),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_the_rule_that_a_run_asks_for(options, expected):
    update_KP = updates(7, 40)
    got_P, ids = robust_update(update_KP, uniform(7), IDS, AggregateOptions(**options))
    expected_P, expected_ids = expected(update_KP)
    assert torch.equal(got_P, expected_P) and ids == expected_ids


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coordinate_median(updates(0, 3), []), "median cannot resist 0 hostile clients among 0"),
        (
            lambda: trimmed_mean(updates(4, 3), IDS[:4], num_trimmed=2),
            "trimmed_mean cannot resist 2 hostile .* among 4",
        ),
        (lambda: trimmed_mean(updates(4, 3), IDS[:4], num_trimmed=-1), "trimmed_mean cannot resist -1 hostile"),
        (lambda: krum(updates(4, 3), IDS[:4], num_attackers=1), "multi_krum cannot resist 1 hostile clients among 4"),
        (
            lambda: multi_krum(updates(5, 3), uniform(5), IDS[:5], num_attackers=1, num_selected=5),
            r"multi_krum cannot take 5 of 5 clients of which 1 may be hostile. Give num_selected from 1 to 4",
        ),
    ],
)
def test_too_few_clients_for_a_rule(call, message):
    with pytest.raises(AggregationError, match=message):
        call()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "norm_clipping", "krum"])
def test_an_update_that_is_not_finite_names_its_client(rule, value):
    update_KP = updates(7, 40)
    update_KP[4, 11] = value
    options = AggregateOptions(rule=rule, max_norm=1.0 if rule == "norm_clipping" else None)
    with pytest.raises(AggregationError, match="client 26: its update is not finite"):
        robust_update(update_KP, uniform(7), IDS, options)


def test_no_elements():
    assert coordinate_median(torch.zeros(3, 0), IDS[:3]).shape == (0,)
    assert krum(torch.zeros(5, 0), IDS[:5], num_attackers=1)[0].shape == (0,)
