"""Oort's utilities and choice on a handful of clients, beside the formulas of the paper written out client by client.

Independent of the engine: plain loops over the records, from Lai et al. (OSDI 2021), equation 1 and algorithm 1, with
the scaling of the authors' program. Nothing here calls what it checks to make its expectation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterotune.config.cohort_options import CohortConfig, OortOptions
from heterotune.fleet.availability import Always
from heterotune.fleet.client_records import REPORT, ClientRecords
from heterotune.fleet.clients import make_population
from heterotune.fleet.oort import exploit, exploration_share, oort_utilities, preferred_percentile, preferred_seconds
from heterotune.fleet.selection import draw_cohort

ROWS = [10, 40, 5, 20, 8, 16]
SQUARES = {0: 36.0, 1: 0.25, 2: 9.0, 3: 1.0, 4: 2.25}  # mean squared loss; client 5 never reported
SECONDS = {0: 10.0, 1: 400.0, 2: 30.0, 3: 20.0, 4: 50.0}
LAST_ROUND = {0: 1, 1: 2, 2: 2, 3: 1, 4: 3}
ROUND = 4


@pytest.fixture
def records() -> ClientRecords:
    known = ClientRecords()
    for number in (1, 2, 3):
        rows = [(c, 0, ROWS[c], math.sqrt(SQUARES[c]), SQUARES[c]) for c in SQUARES if LAST_ROUND[c] == number]
        known.observe(np.array(rows, dtype=REPORT), seconds=SECONDS, round_number=number)
    return known


def percentile(values: list[float], percent: float) -> float:
    """Linear interpolation between the neighbours, by hand."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100.0
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def utilities_by_hand(options: OortOptions) -> dict[int, float]:
    statistical = {c: ROWS[c] * math.sqrt(SQUARES[c]) for c in SQUARES}
    ceiling = percentile(list(statistical.values()), options.clip_percentile)
    clipped = {c: min(value, ceiling) for c, value in statistical.items()}
    least, most = min(clipped.values()), max(clipped.values())
    preferred = percentile(list(SECONDS.values()), options.preferred_percentile)
    worth = {}
    for c in SQUARES:
        worth[c] = (clipped[c] - least) / (most - least) + math.sqrt(0.1 * math.log(ROUND) / LAST_ROUND[c])
        if SECONDS[c] > preferred:
            worth[c] *= (preferred / SECONDS[c]) ** options.penalty
    return worth


@pytest.mark.parametrize(
    "options",
    [
        OortOptions(),
        OortOptions(clip_percentile=60.0, preferred_percentile=75.0, penalty=0.5),
        OortOptions(penalty=0.0),
    ],
)
def test_utilities_are_those_of_the_formula(records, options):
    longest = preferred_seconds(records.seen, records.utilities, options)
    assert longest == pytest.approx(percentile(list(SECONDS.values()), options.preferred_percentile))
    found = oort_utilities(records.seen, options, preferred_seconds=longest, round_number=ROUND)
    expected = utilities_by_hand(options)
    np.testing.assert_allclose(found, [expected[c] for c in sorted(expected)], rtol=1e-12)


def test_a_slow_client_is_worth_less_than_its_data(records):
    fast = oort_utilities(records.seen, OortOptions(), preferred_seconds=math.inf, round_number=ROUND)
    slow = oort_utilities(records.seen, OortOptions(), preferred_seconds=100.0, round_number=ROUND)
    assert slow[1] == pytest.approx(fast[1] / 16.0) and (slow[[0, 2, 3, 4]] == fast[[0, 2, 3, 4]]).all()


def test_only_those_near_the_last_one_admitted_can_be_chosen():
    worth = np.array([1.0, 0.2, 0.97, 0.96, 0.5])
    chosen = [exploit(worth, 2, OortOptions(cut_off=0.95), np.random.default_rng(seed)).tolist() for seed in range(50)]
    assert {n for pair in chosen for n in pair} == {0, 2, 3}  # 0.95 * 0.97 = 0.92
    assert all(len(set(pair)) == 2 for pair in chosen)
    strict = [exploit(worth, 2, OortOptions(cut_off=1.0), np.random.default_rng(seed)).tolist() for seed in range(9)]
    assert {tuple(sorted(pair)) for pair in strict} == {(0, 2)}


def test_the_round_takes_known_and_unknown_clients_in_their_shares(records):
    fleet = make_population([6], ROWS)
    options = {"exploration": 0.5, "least_exploration": 0.25, "exploration_decay": 0.5, "cut_off": 1.0}
    cohort = CohortConfig(clients=4, select="oort", oort=options)
    best = sorted(SQUARES, key=utilities_by_hand(cohort.oort).get, reverse=True)
    for seed in range(5):
        drawn = draw_cohort(
            fleet,
            cohort,
            records=records,
            availability=Always(),
            virtual_seconds=0.0,
            run_seed=seed,
            round_number=ROUND,
        )
        # round 4: max(0.25, 0.5 * 0.5^3) = 0.25 explores 1 of 4, which is client 5; the three best of the others
        assert [client.client_id for client in drawn] == sorted([5, *best[:3]])


def test_fewer_unknown_clients_are_wanted_from_round_to_round():
    options = OortOptions(exploration=0.8, exploration_decay=0.5, least_exploration=0.15)
    assert [exploration_share(options, number) for number in (1, 2, 3, 4)] == [0.8, 0.4, 0.2, 0.15]


def test_the_cohort_is_full_when_nobody_is_left_to_explore(records):
    fleet = make_population([5], ROWS[:5])
    cohort = CohortConfig(clients=4, select="oort", oort={"most_rounds": 2})
    arguments = {"availability": Always(), "virtual_seconds": 0.0, "run_seed": 3, "round_number": ROUND}
    drawn = draw_cohort(fleet, cohort, records=records, **arguments)
    assert len(drawn) == 4
    strict = cohort.model_copy(update={"oort": cohort.oort.model_copy(update={"most_rounds": 1})})
    assert len(draw_cohort(fleet, strict, records=records, **arguments)) == 4  # the tired ones rather than nobody


@pytest.mark.parametrize(("num_fresh", "num_tired_drawn"), [(20, 0), (7, 3)])
def test_tired_clients_come_only_where_fresh_ones_are_too_few(num_fresh, num_tired_drawn):
    num_tired, count = 10, 10
    ids = range(num_fresh + num_tired)
    known, all_seconds = ClientRecords(), {c: 1.0 for c in ids}
    for number, reporting in ((1, ids), (2, ids[num_fresh:])):  # the last ten report twice, with the highest losses
        rows = [(c, 0, 10, 5.0 if c >= num_fresh else 1.0, 25.0 if c >= num_fresh else 1.0) for c in reporting]
        known.observe(np.array(rows, dtype=REPORT), seconds=all_seconds, round_number=number)
    fleet = make_population([len(ids)], [10] * len(ids))
    cohort = CohortConfig(clients=count, select="oort", oort={"most_rounds": 2})
    for number in range(3, 103):
        drawn = draw_cohort(
            fleet,
            cohort,
            records=known,
            availability=Always(),
            virtual_seconds=0.0,
            run_seed=17,
            round_number=number,
        )
        assert len({client.client_id for client in drawn}) == count
        assert sum(client.client_id >= num_fresh for client in drawn) == num_tired_drawn, number


def test_the_pacer_relaxes_when_utility_falls():
    options = OortOptions(pacer_rounds=2, preferred_percentile=30.0, pacer_percent=40.0)
    assert preferred_percentile([9.0, 9.0, 1.0], options) == 30.0
    assert preferred_percentile([9.0, 9.0, 1.0, 1.0], options) == 70.0
    assert preferred_percentile([9.0, 9.0, 1.0, 1.0, 5.0, 5.0], options) == 70.0
    assert preferred_percentile([9.0, 9.0, 1.0, 1.0, 0.5, 0.5], options) == 100.0
