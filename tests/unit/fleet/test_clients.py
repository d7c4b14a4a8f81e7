from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet.assignment import assign_chunks, common_pauses, passes_in_lock_step
from heterotune.fleet.chunks import Chunk, form_chunks
from heterotune.fleet.clients import Client, make_population, sample_cohort
from heterotune.fleet.placement import spread

FLEET = make_population([4, 4, 4], range(10, 22))


def cohort_of(round_number=1, seed=0, fraction=None, clients_wanted=None):
    cohort = CohortConfig(fraction=fraction, clients=clients_wanted)
    return sample_cohort(FLEET, cohort, run_seed=seed, round_number=round_number)


def test_a_fraction_is_taken_of_every_model_type():
    assert [sum(c.model_type == m for c in cohort_of(fraction=0.5)) for m in range(3)] == [2, 2, 2]


def test_a_small_fraction_still_takes_one_client_of_every_type():
    assert sorted(c.model_type for c in cohort_of(fraction=0.01)) == [0, 1, 2]


@pytest.mark.parametrize("count", range(1, 13))
def test_a_number_of_clients_is_met_exactly(count):
    assert len(cohort_of(clients_wanted=count)) == count


def test_the_cohort_depends_on_seed_and_round_and_on_nothing_else():
    assert cohort_of(fraction=0.5) == cohort_of(fraction=0.5)
    assert len({cohort_of(round_number=r, fraction=0.5) for r in range(8)}) > 1
    assert len({cohort_of(seed=s, fraction=0.5) for s in range(8)}) > 1


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    chunk_clients=st.integers(1, 5),
    num_ranks=st.integers(1, 6),
    in_lock_step=st.booleans(),
    steps=st.integers(1, 7),
)
def test_every_client_is_trained_by_exactly_one_rank(sizes, chunk_clients, num_ranks, in_lock_step, steps):
    owners = [m for m, size in enumerate(sizes) for _ in range(size)]
    cohort = tuple(Client(i, m, 1) for i, m in enumerate(owners))
    num_steps = {c.client_id: 1 + c.client_id % steps for c in cohort}
    chunks = form_chunks(cohort, chunk_clients=dict.fromkeys(range(4), chunk_clients), num_steps=num_steps)
    by_rank = assign_chunks(
        chunks, spread(4, num_ranks), seconds_per_pass={m: 1.0 + m for m in range(4)}, in_lock_step=in_lock_step
    )
    placed = [client for part in by_rank for chunk in part for client in chunk.clients]
    assert sorted(placed, key=lambda c: c.client_id) == list(cohort)
    assert all(len({c.model_type for c in chunk.clients}) == 1 for chunk in chunks)
    for model_type in range(len(sizes)):
        passes = passes_in_lock_step(by_rank, model_type)
        assert all(
            sum(chunk.num_passes for chunk in part if chunk.model_type == model_type) <= passes for part in by_rank
        )


def test_lock_step_balances_every_model_type_on_its_own():
    cohort = tuple(Client(i, i // 4, 1) for i in range(8))
    chunks = form_chunks(cohort, chunk_clients={0: 2, 1: 2}, num_steps=dict.fromkeys(range(8), 3))
    by_rank = assign_chunks(chunks, spread(2, 2), seconds_per_pass={0: 100.0, 1: 1.0}, in_lock_step=True)
    assert [passes_in_lock_step(by_rank, m) for m in (0, 1)] == [3, 3]


def test_ranks_without_a_client_make_no_trouble():
    chunks = form_chunks([FLEET.client(0)], chunk_clients={0: 1}, num_steps={0: 5})
    by_rank = assign_chunks(chunks, spread(1, 4), seconds_per_pass={0: 1.0}, in_lock_step=True)
    assert [len(part) for part in by_rank] == [1, 0, 0, 0]
    assert passes_in_lock_step(by_rank, 0) == 5 and passes_in_lock_step(by_rank, 1) == 0


def chunks_of(*num_passes, model_type=0):
    return tuple(Chunk(model_type, (Client(i, model_type, 1),), (steps,)) for i, steps in enumerate(num_passes))


@pytest.mark.parametrize(
    ("parts", "pauses"),
    [
        ([chunks_of(2, 2), chunks_of(2, 2)], {2, 4}),
        ([chunks_of(2, 2, 2), chunks_of(3, 3)], {6}),
        ([chunks_of(2, 2, 2), chunks_of(2)], {2, 4, 6}),  # who has finished its chunks may pause at any time
        ([chunks_of(2, 3), chunks_of(9, model_type=1)], {2, 5}),
        ([(), ()], set()),
    ],
)
def test_ranks_in_lock_step_pause_where_none_is_in_the_middle_of_a_chunk(parts, pauses):
    assert common_pauses(parts, 0) == pauses
