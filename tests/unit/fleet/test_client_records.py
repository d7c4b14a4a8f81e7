"""What the server remembers of clients that reported: the last word of each, in client order, through a checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterotune.fleet.client_records import REPORT, ClientRecords


def reports(*rows: tuple[int, int, int, float, float]) -> np.ndarray:
    return np.array(list(rows), dtype=REPORT)


@pytest.fixture
def records() -> ClientRecords:
    known = ClientRecords()
    known.observe(reports((7, 1, 4, 2.0, 4.0), (2, 0, 9, 1.5, 2.25)), seconds={2: 30.0}, round_number=1)
    known.observe(reports((4, 0, 1, 3.0, 9.0), (7, 1, 4, 1.0, 1.0)), seconds={7: 12.5}, round_number=3)
    return known


def test_the_last_report_of_each_client_counts(records):
    assert records.seen["client_id"].tolist() == [2, 4, 7]
    assert records.seen["loss"].tolist() == [1.5, 3.0, 1.0]
    assert records.seen["seconds"].tolist() == [30.0, 0.0, 12.5]
    assert records.seen["last_round"].tolist() == [1, 3, 3]
    assert records.seen["num_rounds"].tolist() == [1, 1, 2]
    assert records.of_type(0)["client_id"].tolist() == [2, 4]
    assert records.losses_of(np.array([9, 7, 2, 0]), unknown=-1.0).tolist() == [-1.0, 1.0, 1.5, -1.0]
    assert records.utilities == [pytest.approx(4 * 2.0 + 9 * 1.5), pytest.approx(1 * 3.0 + 4 * 1.0)]


def test_the_order_of_arrival_changes_nothing(records):
    turned = ClientRecords()
    turned.observe(reports((2, 0, 9, 1.5, 2.25), (7, 1, 4, 2.0, 4.0)), seconds={2: 30.0}, round_number=1)
    turned.observe(reports((7, 1, 4, 1.0, 1.0), (4, 0, 1, 3.0, 9.0)), seconds={7: 12.5}, round_number=3)
    assert turned.seen.tobytes() == records.seen.tobytes() and turned.utilities == records.utilities


def test_losses_that_are_not_finite_say_nothing(records):
    before = records.seen.copy()
    records.observe(reports((2, 0, 9, math.nan, math.nan), (5, 0, 9, math.inf, math.inf)), seconds={}, round_number=4)
    assert records.seen.tobytes() == before.tobytes() and records.utilities[-1] == 0.0


def test_a_checkpoint_keeps_every_bit(records):
    other = ClientRecords()
    other.restore(records.state())
    assert other.seen.tobytes() == records.seen.tobytes() and other.utilities == records.utilities
    fresh = ClientRecords()
    fresh.restore({})
    assert len(fresh.seen) == 0 and fresh.utilities == []
    fresh.restore(fresh.state())
    assert len(fresh.seen) == 0
