"""Averages where only some model types have an element."""

from __future__ import annotations

import torch

from heterotune.aggregation.coverage import Part, coverage_mean, padded_change


def part(places, values, weight, num_clients=1):
    return Part(torch.tensor(places), torch.tensor(values, dtype=torch.float64), weight, num_clients)


def test_weights_are_renormalised_where_a_part_is_missing():
    found = coverage_mean([part([0, 1], [1.0, 2.0], 3, 2), part([3, 1], [5.0, 6.0], 1)], 5)
    assert found.mean_F.tolist() == [1.0, (3 * 2.0 + 6.0) / 4, 0.0, 5.0, 0.0]
    assert found.clients_F.tolist() == [2, 3, 0, 1, 0]


def test_padding_counts_what_is_missing_as_zero():
    before_F = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    found = padded_change([part([0, 1], [1.0, 2.0], 0.75), part([1, 3], [6.0, 5.0], 0.25)], before_F)
    after = [0.75 * (1 + 1), 0.75 * (2 + 2) + 0.25 * (2 + 6), 3.0, 0.25 * (4 + 5), 5.0]
    assert (before_F + found.mean_F).tolist() == after


def test_nothing_moves_where_nobody_moved_or_misses_an_element():
    before_F = torch.full((3,), 0.1, dtype=torch.float64)
    shares = (0.1, 0.2, 0.7)  # in float64 they do not make 1
    found = padded_change([part([0, 1, 2], [0.0] * 3, share) for share in shares], before_F)
    assert not found.mean_F.any()
