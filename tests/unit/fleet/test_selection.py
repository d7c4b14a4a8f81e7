"""Whom a round draws: today's draw by default, and each policy among those that are available."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.errors import TooFewAvailable
from heterotune.fleet.availability import Always, Diurnal
from heterotune.fleet.client_records import REPORT, ClientRecords
from heterotune.fleet.clients import make_population, sample_cohort
from heterotune.fleet.oort import exploit
from heterotune.fleet.selection import draw_cohort, draw_when_available

ROWS = [5, 1, 0, 8, 2, 2, 9, 4, 30, 1, 7, 7]
FLEET = make_population([8, 4], ROWS)  # client 2 has no rows
NIGHT = Diurnal(np.array([0.0, 50.0] * 6), 50.0, 100.0)  # even ids in the first half of a period, odd ones later


def test_clients_that_are_worth_nothing_are_drawn_alike():
    with np.errstate(over="raise"):
        drawn = [exploit(np.zeros(50), 10, CohortConfig().oort, np.random.default_rng(seed)) for seed in range(40)]
    assert all(len(set(places.tolist())) == 10 for places in drawn)
    assert set(np.concatenate(drawn).tolist()) == set(range(50))


def ids(cohort: CohortConfig, *, fleet=FLEET, records=None, availability=None, seconds=0.0, seed=1, number=4, **more):
    clients = draw_cohort(
        fleet,
        cohort,
        records=records or ClientRecords(),
        availability=availability or Always(),
        virtual_seconds=seconds,
        run_seed=seed,
        round_number=number,
        **more,
    )
    return [client.client_id for client in clients]


def known(**losses: float) -> ClientRecords:
    """Clients that reported in round 3: c7=1.5 is client 7 with a loss of 1.5."""
    rows = [
        (int(name[1:]), FLEET.model_type_of(int(name[1:])), ROWS[int(name[1:])], loss, loss**2)
        for name, loss in losses.items()
    ]
    records = ClientRecords()
    records.observe(np.array(rows, dtype=REPORT), seconds={}, round_number=3)
    return records


@pytest.mark.parametrize("cohort", [CohortConfig(fraction=0.5), CohortConfig(clients=5), CohortConfig()])
def test_by_default_it_is_the_draw_of_before(cohort):
    for number in range(1, 6):
        before = [each.client_id for each in sample_cohort(FLEET, cohort, run_seed=7, round_number=number)]
        assert ids(cohort, seed=7, number=number) == before


@pytest.mark.parametrize("select", ["uniform", "by_size", "by_loss", "power_of_choice", "oort"])
def test_every_policy_draws_what_each_type_is_due_from_those_that_are_there(select):
    cohort, records = CohortConfig(clients=4, select=select), known(c0=1.0, c1=2.0, c8=0.5, c9=0.7)
    for seed in range(10):
        first = ids(
            cohort, records=records, availability=NIGHT, seconds=10.0, seed=seed, busy=(6,), counts={0: 2, 1: 1}
        )
        assert first[:2] == [0, 4] and first[2:] in ([8], [10])  # of the even ones, 2 has no rows and 6 is busy
        later = ids(cohort, records=records, availability=NIGHT, seconds=160.0, seed=seed)
        assert {n % 2 for n in later} == {1} and [FLEET.model_type_of(n) for n in later] == [0, 0, 0, 1]


def test_chances_by_size_are_in_proportion_to_rows():
    cohort = CohortConfig(clients=1, select="by_size")
    counts = {7: 0, 8: 0, 11: 0}
    one_type = make_population([12], ROWS)
    for seed in range(1200):
        drawn = ids(cohort, fleet=one_type, seed=seed)[0]
        counts[drawn] = counts.get(drawn, 0) + 1
    for client, count in counts.items():
        assert count / 1200 == pytest.approx(ROWS[client] / sum(ROWS), abs=0.04)


def test_who_is_not_known_has_the_highest_loss_of_its_type():
    cohort = CohortConfig(clients=1, select="by_loss")
    one_type = make_population([4], [1, 1, 1, 1])
    records = known(c0=1.0, c1=3.0)
    counts = np.bincount([ids(cohort, fleet=one_type, records=records, seed=seed)[0] for seed in range(1200)])
    np.testing.assert_allclose(counts / 1200, np.array([1, 3, 3, 3]) / 10, atol=0.04)


def test_power_of_choice_takes_the_unknown_and_then_the_highest_losses():
    records = known(c0=1.0, c1=3.0, c3=0.1, c4=2.0, c5=2.5, c6=0.2)
    everybody = CohortConfig(clients=4, select="power_of_choice", power_of_choice={"candidates": 10.0})
    counts = {0: 3, 1: 1}
    first_type = [n for n in ids(everybody, records=records, counts=counts) if n < 8]
    assert first_type == [1, 5, 7]  # 7 never reported
    few = everybody.model_copy(
        update={"power_of_choice": everybody.power_of_choice.model_copy(update={"candidates": 1.0})}
    )
    assert any(
        ids(few, records=records, counts=counts, seed=s) != ids(everybody, records=records, counts=counts)
        for s in range(5)
    )


def test_a_round_waits_until_enough_are_there():
    options = AvailabilityOptions(model="diurnal", check_seconds=7.0)
    arguments = {"records": ClientRecords(), "run_seed": 1, "round_number": 2}
    odd_only = {0: 4, 1: 2}
    clients, seconds = draw_when_available(
        FLEET, CohortConfig(), options, availability=NIGHT, virtual_seconds=311.0, counts=odd_only, **arguments
    )
    assert seconds == 300.0 + 8 * 7.0 and [each.client_id % 2 for each in clients] == [1] * 6
    now = draw_when_available(
        FLEET, CohortConfig(), options, availability=NIGHT, virtual_seconds=355.0, counts=odd_only, **arguments
    )
    assert now[1] == 355.0
    told = r"round 2: at second 311 there are 3 of the 7 clients of model type 0 that a round needs, and never all of "
    with pytest.raises(TooFewAvailable, match=told + "them in the 100 seconds"):
        draw_when_available(FLEET, CohortConfig(), options, availability=NIGHT, virtual_seconds=311.0, **arguments)
