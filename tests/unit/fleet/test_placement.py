"""Which ranks hold which model types: in proportion to work, every type somewhere, whole nodes where these share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heterotune.fleet.assignment import assign_chunks
from heterotune.fleet.chunks import form_chunks
from heterotune.fleet.clients import Client
from heterotune.fleet.placement import Placement, Seat, dedicate, spread

ONE_NODE = ["n"] * 8


def test_ranks_are_dealt_in_proportion_to_work() -> None:
    assert dedicate([6.0, 1.0, 3.0], ONE_NODE, whole_nodes=False).ranks_of_type == ((0, 1, 2, 3, 4), (5,), (6, 7))


def test_a_type_without_work_has_a_rank_all_the_same() -> None:
    assert dedicate([1.0, 0.0], ONE_NODE[:3], whole_nodes=False).ranks_of_type == ((0, 1), (2,))


def test_types_share_ranks_where_there_are_fewer() -> None:
    placement = dedicate([3.0, 2.0, 1.5], ONE_NODE[:2], whole_nodes=False)
    assert placement.ranks_of_type == ((0,), (1,), (1,))
    assert [placement.held_by(mpi_rank) for mpi_rank in (0, 1)] == [(0,), (1, 2)]
    assert dedicate([1.0, 2.0], ["n"], whole_nodes=True) == spread(2, 1)
    assert dedicate([0.0, 0.0, 0.0], ONE_NODE[:2], whole_nodes=False).crews == ((0, 2), (1,))


def test_nodes_are_dealt_whole_where_their_ranks_share_a_copy() -> None:
    nodes = ["a", "b", "c", "a", "b", "c"]
    assert dedicate([1.0, 2.0], nodes, whole_nodes=True).ranks_of_type == ((0, 3), (1, 2, 4, 5))
    few = dedicate([1.0, 1.0, 1.0, 1.0], nodes, whole_nodes=True)  # more types than nodes: ranks are dealt
    assert few.ranks_of_type == ((0, 1), (2, 3), (4,), (5,))


def test_crews_are_ranks_with_the_same_types() -> None:
    placement = Placement(((0, 2), (1,), (1,)), 3)
    assert placement.crews == ((0,), (1, 2)) and placement.crew_of_rank == (0, 1, 0)
    assert placement.seat(2, 0) == Seat(1, 2)
    assert spread(3, 4).crews == ((0, 1, 2),)


@given(
    work=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=6),
    num_ranks=st.integers(1, 12),
    in_lock_step=st.booleans(),
)
def test_a_chunk_goes_to_a_rank_that_holds_its_type(work, num_ranks, in_lock_step) -> None:
    placement = dedicate(work, ["n"] * num_ranks, whole_nodes=False)
    assert all(placement.held_by(mpi_rank) for mpi_rank in range(num_ranks)), "a rank has nothing to do"
    cohort = [Client(number, number % len(work), 1) for number in range(4 * len(work))]
    steps = {client.client_id: 1 + client.client_id % 3 for client in cohort}
    chunks = form_chunks(cohort, chunk_clients=dict.fromkeys(range(len(work)), 1), num_steps=steps)
    costs = dict.fromkeys(range(len(work)), 1.0)
    by_rank = assign_chunks(chunks, placement, seconds_per_pass=costs, in_lock_step=in_lock_step)
    assert sorted(chunk.clients[0].client_id for part in by_rank for chunk in part) == list(range(len(cohort)))
    for mpi_rank, part in enumerate(by_rank):
        assert {chunk.model_type for chunk in part} <= set(placement.held_by(mpi_rank))
