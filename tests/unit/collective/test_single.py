import numpy as np
import pytest

from heterotune.collective.channel import byte_view, pieces
from heterotune.collective.opening import open_channel
from heterotune.collective.single import SingleChannel
from heterotune.errors import CollectiveError


def test_verbs_give_back_what_they_get():
    channel = open_channel("single")
    array = np.arange(4)
    channel.broadcast(array)
    channel.sum_to_root(array)
    np.testing.assert_array_equal(array, [0, 1, 2, 3])
    channel.reduce_scatter(array, [0, 4])
    channel.all_gather(array, [0, 4])
    np.testing.assert_array_equal(array, [0, 1, 2, 3])
    assert channel.broadcast_bytes(b"abc") == b"abc"
    assert channel.gather_bytes(b"") == [b""]
    channel.barrier()
    channel.close()
    assert (channel.mpi_rank, channel.num_ranks, channel.name) == (0, 1, "single")


@pytest.mark.parametrize(
    "call",
    [
        lambda channel: channel.broadcast(np.zeros(1), 1),
        lambda channel: channel.broadcast_bytes(b"", 1),
        lambda channel: channel.sum_to_root(np.zeros(1, np.int64), 1),
        lambda channel: channel.gather_bytes(b"", 1),
    ],
)
def test_there_is_no_other_root(call):
    with pytest.raises(CollectiveError, match="root 1 is not one of the 1 ranks"):
        call(SingleChannel())


def test_there_is_one_slice():
    for verb in (SingleChannel().reduce_scatter, SingleChannel().all_gather):
        with pytest.raises(CollectiveError, match="slices of 4 items for 1 ranks"):
            verb(np.arange(4), [0, 2, 4])


def test_our_own_mistakes_are_asserted():
    with pytest.raises(AssertionError, match="only int64 sums are exact"):
        SingleChannel().reduce_scatter(np.zeros(1), [0, 1])
    with pytest.raises(AssertionError, match="slices are of one-dimensional"):
        SingleChannel().all_gather(np.zeros((1, 1)), [0, 1])
    with pytest.raises(AssertionError, match="only int64 sums are exact"):
        SingleChannel().sum_to_root(np.zeros(1))
    with pytest.raises(AssertionError, match="C-contiguous"):
        SingleChannel().broadcast(np.zeros((4, 4)).T[1:])
    with pytest.raises(AssertionError, match="the root must have the bytes"):
        SingleChannel().broadcast_bytes(None)


def test_byte_view_is_the_same_memory():
    array = np.zeros((2, 3))
    byte_view(array)[:] = 255
    assert np.isnan(array).all()


def test_pieces_cover_in_order():
    assert pieces(0, 4) == []
    assert pieces(4, 4) == [slice(0, 4)]
    assert pieces(9, 4) == [slice(0, 4), slice(4, 8), slice(8, 9)]
