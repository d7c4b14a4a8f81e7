"""A curve keeps its ends, its extremes and its mean, however long it is and however few points it may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterotune.report.thinned_series import ThinnedSeries


def series(values, max_points=400) -> ThinnedSeries:
    made = ThinnedSeries(max_points)
    for round_number, value in values:
        made.add(round_number, value)
    return made


def test_a_short_curve_is_kept_as_it_is() -> None:
    short = series([(0, 3.0), (2, 1.0), (4, 2.0)])
    assert short.points() == [(0, 3.0), (2, 1.0), (4, 2.0)]
    assert (short.first, short.last, short.least, short.greatest, short.mean) == ((0, 3.0), (4, 2.0), 1.0, 3.0, 2.0)


def test_neighbours_of_a_long_curve_share_a_point() -> None:
    long = series([(n, float(n)) for n in range(1000)], max_points=8)
    assert long.rounds_per_point == 128
    assert long.points()[0] == (0, 0.0) and long.points()[-1] == (999, 999.0)
    assert all(x == y for x, y in long.points())
    assert len(long.points()) <= 10


def test_what_is_null_is_counted_and_not_drawn() -> None:
    gaps = series([(0, 1.0), (1, None), (2, 3.0)])
    assert gaps.points() == [(0, 1.0), (2, 3.0)] and gaps.num_missing == 1


def test_values_of_one_round_are_averaged() -> None:
    assert series([(1, 1.0), (1, 2.0)]).points() == [(1, 1.5)]


def test_nothing_has_no_points() -> None:
    empty = series([])
    assert empty.points() == [] and empty.mean is None


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(-1e6, 1e6)), min_size=1, max_size=300), st.integers(2, 9))
def test_ends_extremes_and_mean_are_exact(steps, max_points) -> None:
    values, round_number = [], 0
    for step, value in steps:
        round_number += step
        values.append((round_number, value))
    thinned = series(values, max_points)
    numbers = [value for _, value in values]
    assert (thinned.first, thinned.last) == (values[0], values[-1])
    assert (thinned.least, thinned.greatest) == (min(numbers), max(numbers))
    assert thinned.mean == pytest.approx(sum(numbers) / len(numbers), abs=1e-6)
    points = thinned.points()
    assert len(points) <= max_points + 2
    assert [x for x, _ in points] == sorted(x for x, _ in points)
