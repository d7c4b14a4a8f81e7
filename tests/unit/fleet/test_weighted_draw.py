"""Draws without replacement in proportion to weights: the law, from few and from many, and what it costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from heterotune.fleet import weighted_draw
from heterotune.fleet.weighted_draw import SCAN_AT_MOST, draw_by_weight, pick_by_weight

WEIGHTS = np.array([0.1, 0.0, 0.4, 1.0, 0.5])


def ordered_pair_chances() -> dict[tuple[int, int], float]:
    """By the definition: the first in proportion to its weight, the second in proportion among those left."""
    chances = {}
    for first, second in itertools.permutations(np.flatnonzero(WEIGHTS).tolist(), 2):
        total = WEIGHTS.sum()
        chances[first, second] = WEIGHTS[first] / total * WEIGHTS[second] / (total - WEIGHTS[first])
    return chances


@pytest.mark.parametrize("scan_at_most", [0, SCAN_AT_MOST])
def test_pairs_come_as_often_as_the_definition_says(monkeypatch, scan_at_most):
    monkeypatch.setattr(weighted_draw, "SCAN_AT_MOST", scan_at_most)
    draw, num_draws, found = np.random.default_rng(5), 6000, {}
    for _ in range(num_draws):
        pair = tuple(draw_by_weight(5, lambda places: WEIGHTS[places], 2, draw).tolist())
        found[pair] = found.get(pair, 0) + 1
    expected = ordered_pair_chances()
    assert set(found) == set(expected)
    assert sum(expected.values()) == pytest.approx(1.0)
    for pair, chance in expected.items():
        assert found[pair] / num_draws == pytest.approx(chance, abs=0.02)


def test_few_out_of_a_million_are_drawn_without_a_look_at_all():
    asked = []

    def weights_of(places: np.ndarray) -> np.ndarray:
        asked.append(len(places))
        return np.full(len(places), 0.5)

    drawn = draw_by_weight(1_000_000, weights_of, 1000, np.random.default_rng(1))
    assert len(set(drawn.tolist())) == 1000 and sum(asked) < 10_000


def test_what_proposals_do_not_find_a_look_at_all_does():
    rare = np.zeros(10_000)
    rare[[17, 4242, 9999]] = 1e-9
    drawn = draw_by_weight(10_000, lambda places: rare[places], 3, np.random.default_rng(1))
    assert sorted(drawn.tolist()) == [17, 4242, 9999]
    assert len(draw_by_weight(10_000, lambda places: rare[places], 5, np.random.default_rng(1))) == 3


def test_all_can_be_drawn_and_nobody_without_a_weight():
    assert sorted(pick_by_weight(WEIGHTS, 9, np.random.default_rng(2)).tolist()) == [0, 2, 3, 4]
    assert pick_by_weight(np.zeros(3), 1, np.random.default_rng(2)).tolist() == []
