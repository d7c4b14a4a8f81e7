from __future__ import annotations

import pytest

from heterotune.backbone.groups import group_ranks, spell_ranks

NODES = ("n2", "n1", "n2", "n1", "n3")


@pytest.mark.parametrize(
    ("choice", "groups"),
    [
        ("world", ((0, 1, 2, 3, 4),)),
        ("node", ((0, 2), (1, 3), (4,))),
        ("rank", ((0,), (1,), (2,), (3,), (4,))),
    ],
)
def test_ranks_are_grouped_by_choice(choice, groups):
    assert group_ranks(choice, NODES) == groups


@pytest.mark.parametrize("choice", ["world", "node", "rank"])
def test_one_rank_is_one_group(choice):
    assert group_ranks(choice, ("here",)) == ((0,),)


@pytest.mark.parametrize(
    ("mpi_ranks", "text"),
    [
        ((3,), "MPI rank 3"),
        ((1, 3), "MPI ranks 1, 3"),
        (range(8), "MPI ranks 0, 1, 2, 3, 4, 5, 6, 7"),
        (range(512), "MPI ranks 0, 1, ..., 511 (512 of them)"),
    ],
)
def test_ranks_in_messages(mpi_ranks, text):
    assert spell_ranks(mpi_ranks) == text


def test_ranks_of_different_crews_share_no_copy():
    assert group_ranks("world", ("a", "a", "b", "b"), (0, 0, 0, 1)) == ((0, 1, 2), (3,))
    assert group_ranks("node", ("a", "a", "b", "b"), (0, 0, 0, 1)) == ((0, 1), (2,), (3,))
