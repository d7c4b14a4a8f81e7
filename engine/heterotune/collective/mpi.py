"""The channel over MPI: buffer collectives of mpi4py, no pickle. The only file that imports mpi4py.

Importing this module starts MPI, so import it only where a job over MPI is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from heterotune.collective.agreement import CALL_WORDS, Call, Verb, check_agreement, check_root
from heterotune.collective.channel import MAX_PIECE_BYTES, ROOT, byte_view, pieces
from heterotune.collective.traffic import Traffic
from heterotune.collective.watchdog import watchdog


def mpi_world_size() -> int:
    """Return how many ranks MPI says this job has; 1 where no MPI launcher started it."""
    return MPI.COMM_WORLD.Get_size()


def abort(exit_code: int) -> NoReturn:
    """End all ranks of the job at once, from any rank or thread; the launcher exits with `exit_code`."""
    sys.stdout.flush()
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(exit_code)
    raise AssertionError("MPI_Abort returned")


class MpiChannel:
    """A channel over a private copy of COMM_WORLD; see `channel.Channel`. Every rank must make one."""

    name = "mpi"

    def __init__(self, *, watchdog_seconds: float | None = None, piece_bytes: int = MAX_PIECE_BYTES) -> None:
        """Copy COMM_WORLD, so that no other library's messages mix with ours.

        Args:
            watchdog_seconds: A verb that takes longer aborts the whole job; None waits for ever.
            piece_bytes: The largest buffer per MPI call, at least 8; the same on every rank.
        """
        assert piece_bytes >= 8
        self._comm: MPI.Comm | None = MPI.COMM_WORLD.Dup()
        self._watchdog_seconds = watchdog_seconds
        self._piece_bytes = piece_bytes
        self.traffic = Traffic()
        self.mpi_rank = self._comm.Get_rank()
        self.num_ranks = self._comm.Get_size()

    def broadcast(self, array: np.ndarray, root: int = ROOT) -> None:
        """Overwrite `array` with the root's. Every rank must call this."""
        view = byte_view(array)
        with self._collective(Call.of_array(Verb.BROADCAST, array, root)) as (comm, _):
            for piece in pieces(view.size, self._piece_bytes):
                comm.Bcast([view[piece], MPI.BYTE], root=root)

    def broadcast_bytes(self, data: bytes | None, root: int = ROOT) -> bytes:
        """Return the root's `data` on every rank. Every rank must call this."""
        is_root = self.mpi_rank == root
        assert not is_root or data is not None, "the root must have the bytes"
        with self._collective(Call(Verb.BROADCAST_BYTES, root, len(data) if is_root else 0)) as (comm, num_bytes_N):
            view = np.frombuffer(data, np.uint8) if is_root else np.empty(num_bytes_N[root], np.uint8)
            for piece in pieces(view.size, self._piece_bytes):
                comm.Bcast([view[piece], MPI.BYTE], root=root)
        return bytes(data) if is_root else view.tobytes()

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Add the ranks' int64 arrays at the root. Every rank must call this."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        view = byte_view(array).view(np.int64)
        with self._collective(Call.of_array(Verb.SUM_TO_ROOT, array, root)) as (comm, _):
            for piece in pieces(view.size, self._piece_bytes // 8):
                if self.mpi_rank == root:
                    comm.Reduce(MPI.IN_PLACE, [view[piece], MPI.INT64_T], op=MPI.SUM, root=root)
                else:
                    comm.Reduce([view[piece], MPI.INT64_T], None, op=MPI.SUM, root=root)

    def gather_bytes(self, data: bytes, root: int = ROOT) -> list[bytes] | None:
        """Return every rank's `data` at the root, in MPI-rank order. Every rank must call this."""
        with self._collective(Call(Verb.GATHER_BYTES, root, len(data))) as (comm, num_bytes_N):
            view = np.frombuffer(data, np.uint8)
            parts_N = [np.empty(size, np.uint8) for size in num_bytes_N] if self.mpi_rank == root else None
            for piece in pieces(max(num_bytes_N), max(1, self._piece_bytes // self.num_ranks)):
                self._gather_piece(comm, view[piece], [part[piece] for part in parts_N] if parts_N else None, root)
        return None if parts_N is None else [part.tobytes() for part in parts_N]

    def _gather_piece(self, comm: MPI.Comm, view: np.ndarray, parts_N: list[np.ndarray] | None, root: int) -> None:
        """Gather one bounded piece of every rank's bytes into `parts_N` at the root."""
        if parts_N is None:
            comm.Gatherv([view, MPI.BYTE], None, root=root)
            return
        counts_N = [part.size for part in parts_N]
        received = np.empty(sum(counts_N), np.uint8)
        comm.Gatherv([view, MPI.BYTE], [received, counts_N, MPI.BYTE], root=root)
        for part, values in zip(parts_N, np.split(received, np.cumsum(counts_N)[:-1]), strict=True):
            part[:] = values

    def barrier(self) -> None:
        """Return when every rank has come here. Every rank must call this."""
        with self._collective(Call(Verb.BARRIER, ROOT)):
            pass

    def close(self) -> None:
        """Free the communicator. Every rank must call this; a second call does nothing."""
        if self._comm is not None:
            self._comm.Free()
            self._comm = None

    @contextmanager
    def _collective(self, call: Call) -> Iterator[tuple[MPI.Comm, list[int]]]:
        """Watch over one verb; yields the communicator and each rank's byte count once all agree what is done."""
        comm = self._comm
        assert comm is not None, "the channel is closed"
        check_root(call.root, self.num_ranks)
        what = f"rank {self.mpi_rank}: {call.verb.name.lower()} over MPI"
        with watchdog(self._watchdog_seconds, what, lambda: abort(1)):
            call_NC = np.empty((self.num_ranks, CALL_WORDS), np.int64)
            comm.Allgather(call.row(), call_NC)
            check_agreement(call_NC)
            yield comm, call_NC[:, 2].tolist()
