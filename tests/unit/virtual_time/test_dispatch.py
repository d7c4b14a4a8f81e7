"""How many clients a round sends out, and who: never one that is on its way."""

from __future__ import annotations

import pytest

from heterotune.config.clock_options import ClockOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet.availability import Always
from heterotune.fleet.client_records import ClientRecords
from heterotune.fleet.clients import make_population, sample_cohort
from heterotune.fleet.selection import draw_cohort
from heterotune.virtual_time.dispatch import dispatch_of

POPULATION = make_population([10, 5], [3] * 14 + [0])  # one client has no rows
HALF = CohortConfig(fraction=0.5)


def dispatch(cohort=HALF, away=(), **options):
    return dispatch_of(POPULATION, cohort, ClockOptions(**options), POPULATION.clients(away))


def draw_free(found, *, run_seed, round_number):
    return draw_cohort(
        POPULATION,
        CohortConfig(),
        records=ClientRecords(),
        availability=Always(),
        virtual_seconds=0.0,
        run_seed=run_seed,
        round_number=round_number,
        counts=found.counts,
        busy=found.busy,
    )


@pytest.mark.parametrize("options", [{}, {"mode": "synchronous"}, {"mode": "deadline", "deadline_seconds": 1.0}])
def test_with_nobody_away_the_cohort_is_that_of_a_run_without_a_clock(options):
    found = dispatch(**options)
    assert found.counts == found.wanted == {0: 5, 1: 2}
    drawn = draw_free(found, run_seed=3, round_number=2)
    assert drawn == sample_cohort(POPULATION, HALF, run_seed=3, round_number=2)


def test_over_selection_draws_more_but_not_more_than_there_are():
    assert dispatch(mode="over_selection", over_select=1.2).counts == {0: 6, 1: 3}
    assert dispatch(mode="over_selection", over_select=9.0).counts == {0: 10, 1: 4}


def test_buffered_keeps_as_many_at_work():
    found = dispatch(CohortConfig(), (0, 3, 9, 11), mode="buffered", concurrency=7, buffer=2)
    assert (found.wanted, found.counts) == ({0: 5, 1: 2}, {0: 2, 1: 1})


def test_a_client_on_its_way_is_not_drawn():
    away = (0, 2, 4, 6, 8, 10, 12)
    found = dispatch(CohortConfig(), away, mode="deadline", deadline_seconds=1.0, late="accept")
    assert found.counts == {0: 5, 1: 2}
    drawn = draw_free(found, run_seed=1, round_number=1)
    assert [client.client_id for client in drawn] == [1, 3, 5, 7, 9, 11, 13]
    some = dispatch(HALF, away[:3], mode="deadline", deadline_seconds=1.0, late="accept")
    seen = [client.client_id for number in range(60) for client in draw_free(some, run_seed=1, round_number=number)]
    assert set(seen) == set(range(14)) - set(away[:3])
    assert max(map(seen.count, (1, 3, 5, 6, 7, 8, 9))) < 1.5 * min(map(seen.count, (1, 3, 5, 6, 7, 8, 9)))
