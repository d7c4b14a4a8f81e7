"""Selection through a run: when rounds draw, whose reports are learned from, and going on from a checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.errors import CheckpointError
from heterotune.fleet.client_records import REPORT
from heterotune.fleet.clients import make_population
from heterotune.fleet.cohort_selection import CohortSelection

FLEET = make_population([40, 20], [3] * 60)
DIURNAL = AvailabilityOptions(model="diurnal", share=0.3, start_spread=0.0, round_seconds=9000.0)
DAY, STRETCH = 86_400.0, 0.3 * 86_400.0


def selection(select: str = "oort", availability: AvailabilityOptions = DIURNAL) -> CohortSelection:
    return CohortSelection(FLEET, CohortConfig(clients=6, select=select), availability, run_seed=2)


def reports(*client_ids: int) -> np.ndarray:
    return np.array([(n, FLEET.model_type_of(n), 3, 1.0 + n, 2.0 + n) for n in client_ids], dtype=REPORT)


def test_without_a_clock_rounds_follow_one_another_and_nights_are_waited_for():
    own = selection()
    drawn = []
    for number in range(1, 6):
        own.draw(number)
        drawn.append(own.drawn_seconds)
    assert drawn == [0.0, 9000.0, 18000.0, DAY, DAY + 9000.0]  # all sleep from 25,920 on
    values = {entry["name"]: entry["value"] for entry in own.metrics(5)}
    assert values["cohort/drawn_seconds"] == DAY + 9000.0 and values["cohort/waited_seconds"] == 0.0
    assert values["oort/exploration_share"] == pytest.approx(0.9 * 0.98**4)
    assert selection("uniform", AvailabilityOptions()).metrics(1) == []


def test_a_clock_says_when_and_how_many_and_who_is_busy():
    own = selection("uniform")
    clients = own.draw(3, seconds=100.0, counts={0: 2, 1: 0}, busy=range(38))
    assert [client.client_id for client in clients] == [38, 39] and own.drawn_seconds == 100.0
    assert own.draw(4, seconds=STRETCH + 1.0, counts={0: 2, 1: 0}, waits=False) == ()
    assert own.drawn_seconds == STRETCH + 1.0
    assert own.leaves_after(7, 100.0) == STRETCH - 100.0
    assert selection("uniform", AvailabilityOptions()).leaves_after(7, 100.0) == math.inf


def test_only_updates_that_count_are_learned_from_and_late_ones_when_they_come():
    own = selection()
    own.observe(reports(1, 2, 3), counted=[1, 3], keeps_others=True, seconds={}, round_number=1)
    assert own.records.seen["client_id"].tolist() == [1, 3]
    later = CohortSelection(FLEET, CohortConfig(clients=6, select="oort"), DIURNAL, run_seed=2)
    later.restore(own.arrays(), 9000.0)
    for each in (own, later):
        each.observe(reports(3, 5), counted=[2, 5], keeps_others=False, seconds={2: 7.0}, round_number=2)
        assert each.records.seen["client_id"].tolist() == [1, 2, 3, 5]
        assert each.records.seen["last_round"].tolist() == [1, 2, 1, 2] and each.records.seen["seconds"][1] == 7.0
        each.observe(reports(), counted=[3], keeps_others=False, seconds={}, round_number=3)
        assert each.records.seen["last_round"].tolist() == [1, 2, 1, 2]  # who is refused may not come later
    assert later.drawn_seconds == 9000.0
    assert later.draw(4, seconds=0.0) == own.draw(4, seconds=0.0)
    assert selection("uniform").arrays() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", None),
        ("loss", np.zeros(3)),
        ("client_id", np.array([3, 1])),
        ("last_round", np.zeros(2)),
        ("pending/square", np.zeros((1, 1))),
        ("utilities", np.array(4.0)),
        (None, "soon"),
        (None, math.nan),
    ],
)
def test_a_state_that_nobody_saved_is_refused(name, value):
    own, later = selection(), selection()
    own.observe(reports(1, 2, 3), counted=[1, 3], keeps_others=True, seconds={}, round_number=1)
    arrays, drawn = own.arrays(), 0.0
    later.restore(arrays, drawn)
    if name is None:
        drawn = value
    elif value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(CheckpointError, match="state of the selection of cohorts cannot be read"):
        selection().restore(arrays, drawn)
