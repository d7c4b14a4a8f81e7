import numpy as np
import pytest

from heterotune.collective.agreement import Call, Verb, check_agreement, check_root, check_slices
from heterotune.errors import CollectiveError


def rows(*calls: Call) -> np.ndarray:
    return np.stack([call.row() for call in calls])


def test_equal_calls_agree():
    check_agreement(rows(*[Call.of_array(Verb.BROADCAST, np.zeros(3), 1)] * 4))


@pytest.mark.parametrize("verb", [Verb.BROADCAST_BYTES, Verb.GATHER_BYTES])
def test_lengths_of_bytes_may_differ(verb):
    check_agreement(rows(Call(verb, 0, 5), Call(verb, 0, 0)))


@pytest.mark.parametrize(
    "other",
    [
        Call(Verb.BARRIER, 0),
        Call.of_array(Verb.BROADCAST, np.zeros(3), 1),
        Call.of_array(Verb.BROADCAST, np.zeros(4), 0),
        Call.of_array(Verb.BROADCAST, np.zeros(3, np.int64), 0),
        Call.of_array(Verb.SUM_TO_ROOT, np.zeros(3), 0),
        Call.of_slices(Verb.BROADCAST, np.zeros(3), [0, 1, 2, 2, 3]),
    ],
)
def test_different_calls_are_refused_with_who_said_what(other):
    mine = Call.of_array(Verb.BROADCAST, np.zeros(3), 0)
    with pytest.raises(CollectiveError, match=r"disagree .*rank 0: broadcast\(root 0, 24 bytes.*rank 2: "):
        check_agreement(rows(mine, mine, other, mine))


@pytest.mark.parametrize("root", [-1, 2])
def test_a_root_that_is_no_rank_is_refused(root):
    with pytest.raises(CollectiveError, match=rf"root {root} is not one of the 2 ranks \(0 to 1\)"):
        check_root(root, 2)


@pytest.mark.parametrize("bounds", [[0, 3], [0, 1, 2], [1, 2, 3], [0, 4, 3], [0, 1, 2, 3]])
def test_slices_that_do_not_cover_an_array_are_refused(bounds):
    with pytest.raises(CollectiveError, match=r"slices of 3 items for 2 ranks are 3 rising bounds from 0 to 3, not \["):
        check_slices(np.zeros(3), bounds, 2)


def test_other_slices_of_the_same_array_are_another_call():
    calls = [Call.of_slices(Verb.ALL_GATHER, np.zeros(3), [0, number, 3]) for number in (1, 2)]
    with pytest.raises(CollectiveError, match=r"rank 1: all_gather\(.*slices [0-9a-f]{8}\)"):
        check_agreement(rows(*calls))
