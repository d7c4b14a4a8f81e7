"""A fleet of arrays: the same clients as a list of objects would give, and no object for one that is not asked for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet import clients as clients_module
from heterotune.fleet.clients import Client, cohort_counts, draws_of_types, make_population, sample_cohort
from heterotune.randomness import NO_CLIENT, generator

MILLION = 1_000_000


def test_clients_are_numbered_in_fleet_order_and_those_without_rows_never_take_part():
    fleet = make_population([3, 2, 1], [4, 0, 2, 5, 5, 0])
    assert (fleet.num_clients, fleet.num_members, fleet.num_types, fleet.total_rows) == (6, 4, 3, 16)
    assert [list(ids) for ids in fleet.members] == [[0, 2], [3, 4], []]
    assert isinstance(fleet.ids_of(1), range) and fleet.rows_of(fleet.ids_of(1)).tolist() == [5, 5]
    assert fleet.rows_of(fleet.ids_of(0)).tolist() == [4, 2]
    assert fleet.clients([4, 0]) == (Client(4, 1, 5), Client(0, 0, 4))
    assert [fleet.takes_part(client_id) for client_id in range(-1, 7)] == [
        False,
        True,
        False,
        True,
        True,
        True,
        *2 * [0],
    ]
    assert draws_of_types(fleet, CohortConfig(fraction=0.5)) == {0: (2, 1), 1: (2, 1)}


def test_ids_are_plain_numbers_whatever_holds_them():
    fleet = make_population([3], np.array([1, 0, 1]))
    (client,) = fleet.clients(fleet.ids_of(0)[:1])
    assert type(client.client_id) is int and type(client.num_rows) is int


@pytest.mark.parametrize("cohort", [CohortConfig(fraction=0.37), CohortConfig(clients=7), CohortConfig()])
def test_the_cohort_is_what_a_list_of_clients_gives(cohort):
    rows = [5, 0, 1, 2, 0, 3, 4, 4, 1, 9, 2, 2]
    fleet, of_type = make_population([5, 7], rows), [[0, 2, 3], [5, 6, 7, 8, 9, 10, 11]]
    for round_number in range(5):
        draw, expected = generator(3, round_number, NO_CLIENT, "cohort"), []
        for place, count in cohort_counts(fleet, cohort).items():
            chosen = draw.choice(len(of_type[place]), size=count, replace=False)
            expected += [Client(of_type[place][k], place, rows[of_type[place][k]]) for k in chosen]
        found = sample_cohort(fleet, cohort, run_seed=3, round_number=round_number)
        assert found == tuple(sorted(expected, key=lambda client: client.client_id))


def test_a_cohort_of_a_million_costs_what_one_of_a_thousand_costs(monkeypatch):
    made = []

    def counted(*args):
        made.append(args)
        return Client(*args)

    monkeypatch.setattr(clients_module, "Client", counted)
    peaks = []
    for num_clients in (1_000, MILLION):
        fleet = make_population([num_clients // 2] * 2, np.broadcast_to(8, num_clients))
        tracemalloc.start()
        assert len(sample_cohort(fleet, CohortConfig(clients=200), run_seed=1, round_number=1)) == 200
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(made) == 400
    assert peaks[1] < peaks[0] + 50_000  # a list of a million would be 8,000,000
