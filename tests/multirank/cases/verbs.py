"""Every verb with every root, with odd lengths; a rank that gets something else than expected fails the job.

python verbs.py KIND PIECE_BYTES     KIND torch-beside: torch.distributed already runs, and goes on afterwards
"""

from __future__ import annotations

import sys

import numpy as np

from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel

DTYPES = (np.float32, np.float64, np.int64, np.uint8, np.bool_)
SHAPES = ((0,), (), (1,), (37,), (3, 5, 7))


def check_broadcast(channel: Channel, root: int) -> None:
    """All dtypes and shapes arrive."""
    for dtype in DTYPES:
        for shape in SHAPES:
            array = np.full(shape, channel.mpi_rank + 1).astype(dtype)
            channel.broadcast(array, root)
            np.testing.assert_array_equal(array, np.full(shape, root + 1).astype(dtype))


def check_broadcast_bytes(channel: Channel, root: int) -> None:
    """Bytes arrive, also none; what other ranks pass is ignored."""
    for data in (b"", b"x", bytes(range(256)) * 3):
        mine = data if channel.mpi_rank == root else (None if channel.mpi_rank % 2 else b"ignored")
        assert channel.broadcast_bytes(mine, root) == data


def check_sum(channel: Channel, root: int) -> None:
    """Sums are exact beyond the integers that float64 holds."""
    for num_elements in (0, 1, 100):
        array = np.arange(num_elements) + (2**60 + channel.mpi_rank) // channel.num_ranks
        parts = [np.arange(num_elements) + (2**60 + rank) // channel.num_ranks for rank in range(channel.num_ranks)]
        channel.sum_to_root(array, root)
        if channel.mpi_rank == root:
            np.testing.assert_array_equal(array, np.sum(parts, axis=0))


def check_gather(channel: Channel, root: int) -> None:
    """Parts of unequal lengths, also none, come in rank order."""
    parts = [bytes([rank]) * (rank * 41) for rank in range(channel.num_ranks)]
    got = channel.gather_bytes(parts[channel.mpi_rank], root)
    assert got == (parts if channel.mpi_rank == root else None), got


def slices_from(channel: Channel, root: int) -> list[int]:
    """Return bounds in which the rank `root` has nothing, and the others lengths that no piece divides."""
    sizes = [0 if rank == root else 41 * rank + 7 for rank in range(channel.num_ranks)]
    return np.cumsum([0, *sizes]).tolist()


def check_reduce_scatter(channel: Channel, root: int) -> None:
    """Every rank gets its own slice of an exact sum; also where some slice is empty."""
    bounds = slices_from(channel, root)
    parts = [np.arange(bounds[-1]) + (2**60 + rank) // channel.num_ranks for rank in range(channel.num_ranks)]
    array, mine = parts[channel.mpi_rank].copy(), slice(bounds[channel.mpi_rank], bounds[channel.mpi_rank + 1])
    channel.reduce_scatter(array, bounds)
    np.testing.assert_array_equal(array[mine], np.sum(parts, axis=0)[mine])


def check_all_gather(channel: Channel, root: int) -> None:
    """Every rank gets all slices, of all dtypes; also where some slice is empty."""
    bounds = slices_from(channel, root)
    for dtype in DTYPES:
        expected = np.repeat(np.arange(1, channel.num_ranks + 1), np.diff(bounds)).astype(dtype)
        array = np.zeros(bounds[-1], dtype)
        array[bounds[channel.mpi_rank] : bounds[channel.mpi_rank + 1]] = channel.mpi_rank + 1
        channel.all_gather(array, bounds)
        np.testing.assert_array_equal(array, expected)


def check_traffic(channel: Channel, root: int) -> None:
    """Over all ranks, what was sent to a root or in slices was received; every verb and nothing else is counted."""
    channel.traffic.drain()
    bounds = slices_from(channel, root)
    array = np.ones(bounds[-1], np.int64)
    channel.broadcast_bytes(b"x" * 100, root)
    channel.sum_to_root(array, root)
    channel.gather_bytes(b"x" * channel.mpi_rank, root)
    channel.reduce_scatter(array, bounds)
    channel.all_gather(array, bounds)
    counted = channel.traffic.drain()
    mine = 8 * (bounds[channel.mpi_rank + 1] - bounds[channel.mpi_rank])
    is_root, others = channel.mpi_rank == root, channel.num_ranks - 1
    got = {verb: (moved.num_calls, moved.sent_bytes, moved.received_bytes) for verb, moved in counted.items()}
    assert got == {
        "broadcast_bytes": (1, 100 * (is_root and others > 0), 100 * (not is_root)),
        "sum_to_root": (1, array.nbytes * (not is_root), array.nbytes * (is_root and others > 0)),
        "gather_bytes": (1, channel.mpi_rank * (not is_root), is_root * (sum(range(others + 1)) - root)),
        "reduce_scatter": (1, array.nbytes - mine, mine * others),
        "all_gather": (1, mine * others, array.nbytes - mine),
    }, got
    assert all(moved.seconds >= 0.0 for moved in counted.values())


CHECKS = (
    check_broadcast,
    check_broadcast_bytes,
    check_sum,
    check_gather,
    check_reduce_scatter,
    check_all_gather,
    check_traffic,
)


def main() -> None:
    """Run all checks on the channel that the command line names."""
    kind, piece_bytes = sys.argv[1:]
    if kind == "torch-beside":
        import torch  # takes seconds, which the other cases need not wait

        torch.distributed.init_process_group("gloo")
    channel = open_channel(kind.removesuffix("-beside"), watchdog_seconds=30.0, piece_bytes=int(piece_bytes))
    for root in range(channel.num_ranks):
        for check in CHECKS:
            check(channel, root)
            channel.barrier()
    channel.close()
    if kind == "torch-beside":
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    print(f"checked {channel.num_ranks} ranks")


if __name__ == "__main__":
    main()
