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


def main() -> None:
    """Run all checks on the channel that the command line names."""
    kind, piece_bytes = sys.argv[1:]
    if kind == "torch-beside":
        import torch  # takes seconds, which the other cases need not wait

        torch.distributed.init_process_group("gloo")
    channel = open_channel(kind.removesuffix("-beside"), watchdog_seconds=30.0, piece_bytes=int(piece_bytes))
    for root in range(channel.num_ranks):
        for check in (check_broadcast, check_broadcast_bytes, check_sum, check_gather):
            check(channel, root)
            channel.barrier()
    channel.close()
    if kind == "torch-beside":
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    print(f"checked {channel.num_ranks} ranks")


if __name__ == "__main__":
    main()
