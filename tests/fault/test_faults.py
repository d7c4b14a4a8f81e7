"""A few faults of each run of the tests; `python tools/faults.py` lets all kinds strike at 21 random points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import strike, uninterrupted_digest, write_run
from points import KINDS, NUM_ROUNDS, draw_points

SEED = 7


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("fault"))


@pytest.fixture(scope="module")
def digest(run_file) -> str:
    return uninterrupted_digest(run_file)


def test_points_are_drawn_by_the_seed() -> None:
    points = draw_points(SEED, 70)
    assert points == draw_points(SEED, 70) != draw_points(SEED + 1, 70)
    assert {point.what for point in points} == set(KINDS)
    assert {point.round for point in points} == set(range(NUM_ROUNDS + 1))
    assert {point.mpi_rank for point in points} == {0, 1}


@pytest.mark.parametrize("point", draw_points(SEED, 3), ids=lambda point: point.what.replace(" ", "-"))
def test_the_run_ends_says_why_and_goes_on(run_file, digest, tmp_path, point) -> None:
    outcome = strike(point, run_file, digest, tmp_path)
    assert outcome.is_good, (outcome.terminal, outcome)
