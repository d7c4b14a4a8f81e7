"""The last rank does something wrong while the others wait for it.

python trouble.py KIND MODE
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from heterotune.collective.opening import open_channel

HANG_SECONDS = 120.0


def _hang(kind: str) -> None:
    """Do what never ends; without mpirun, where nobody ends the other processes, what ends when they do."""
    if kind == "mpi":
        threading.Event().wait(HANG_SECONDS)
    import torch  # takes seconds, which the other cases need not wait

    torch.distributed.recv(torch.zeros(1), src=0)


def main() -> None:
    """Open the channel, misbehave on the last rank."""
    kind, mode = sys.argv[1:]
    if mode == "abort":
        from heterotune.collective.mpi import abort
    channel = open_channel(kind, watchdog_seconds=2.0 if mode == "stuck" else None)
    array = np.zeros(8)
    is_last = channel.mpi_rank == channel.num_ranks - 1
    channel.barrier()
    if is_last and mode == "raise":
        raise RuntimeError("the last rank fails on purpose")
    if is_last and mode == "exit":
        sys.exit(3)
    if is_last and mode == "abort":
        abort(7)
    if is_last and mode == "stuck":
        _hang(kind)
    if mode == "other-slices":
        channel.reduce_scatter(array.astype(np.int64), [0, 3, 6, 8] if is_last else [0, 2, 6, 8])
    elif is_last and mode == "other-verb":
        channel.gather_bytes(b"abc")
    elif is_last and mode == "other-length":
        channel.broadcast(array[:4].copy())
    else:
        channel.broadcast(array)
    channel.close()


if __name__ == "__main__":
    main()
