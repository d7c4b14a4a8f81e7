"""The channel over MPI: buffer collectives of mpi4py, no pickle. The only file that imports mpi4py.

Importing this module starts MPI, so import it only where a job over MPI is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from heterotune.collective.agreement import (
    CALL_WORDS,
    NUM_BYTES_WORD,
    Call,
    Verb,
    check_agreement,
    check_root,
    check_slices,
)
from heterotune.collective.channel import CACHED_PIECE_BYTES, MAX_PIECE_BYTES, ROOT, Message, byte_view, pieces
from heterotune.collective.exchange import share_slices, sum_slices
from heterotune.collective.traffic import Moved, Traffic, note_one_way
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

    def __init__(
        self,
        *,
        watchdog_seconds: float | None = None,
        piece_bytes: int = MAX_PIECE_BYTES,
        on_stuck: Callable[[str], object] = lambda what: None,
    ) -> None:
        """Copy COMM_WORLD, so that no other library's messages mix with ours.

        Args:
            watchdog_seconds: A verb that takes longer aborts the whole job; None waits for ever.
            piece_bytes: The largest buffer per MPI call, at least 8; the same on every rank.
            on_stuck: Told, from another thread, which verb took longer, before the job is aborted.
        """
        assert piece_bytes >= 8
        self._comm: MPI.Comm | None = MPI.COMM_WORLD.Dup()
        self._watchdog_seconds = watchdog_seconds
        self._piece_bytes = piece_bytes
        self._cached_items = min(piece_bytes, CACHED_PIECE_BYTES) // 8
        self._on_stuck = on_stuck
        self.traffic = Traffic()
        self.mpi_rank = self._comm.Get_rank()
        self.num_ranks = self._comm.Get_size()

    def broadcast(self, array: np.ndarray, root: int = ROOT) -> None:
        """Overwrite `array` with the root's. Every rank must call this."""
        view = byte_view(array)
        with self._collective(Call.of_array(Verb.BROADCAST, array, root)) as (comm, _, moved):
            self._broadcast_view(comm, view, root, moved)

    def broadcast_bytes(self, data: Message | None, root: int = ROOT) -> Message:
        """Return the root's `data` on every rank. Every rank must call this."""
        is_root = self.mpi_rank == root
        assert not is_root or data is not None, "the root must have the bytes"
        with self._collective(Call(Verb.BROADCAST_BYTES, root, len(data) if is_root else 0)) as (comm, sizes_N, moved):
            message = data if is_root else bytearray(sizes_N[root])
            self._broadcast_view(comm, np.frombuffer(message, np.uint8), root, moved)
        return message

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Add the ranks' int64 arrays at the root. Every rank must call this."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        view, is_root = byte_view(array).view(np.int64), self.mpi_rank == root
        with self._collective(Call.of_array(Verb.SUM_TO_ROOT, array, root)) as (comm, _, moved):
            for piece in pieces(view.size, self._cached_items):
                if is_root:
                    comm.Reduce(MPI.IN_PLACE, [view[piece], MPI.INT64_T], op=MPI.SUM, root=root)
                else:
                    comm.Reduce([view[piece], MPI.INT64_T], None, op=MPI.SUM, root=root)
            note_one_way(moved, array.nbytes, gives=not is_root, num_ranks=self.num_ranks)

    def gather_bytes(self, data: Message, root: int = ROOT) -> list[Message] | None:
        """Return every rank's `data` at the root, in MPI-rank order. Every rank must call this."""
        with self._collective(Call(Verb.GATHER_BYTES, root, len(data))) as (comm, sizes_N, moved):
            if self.mpi_rank != root:
                view = np.frombuffer(data, np.uint8)
                for piece in pieces(view.size, self._piece_bytes):
                    comm.Send([view[piece], MPI.BYTE], root)
                moved.sent_bytes = len(data)
                return None
            moved.received_bytes = sum(sizes_N) - len(data)
            return [data if rank == root else self._receive(comm, size, rank) for rank, size in enumerate(sizes_N)]

    def reduce_scatter(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Add the ranks' int64 arrays, each slice at its own rank. Every rank must call this."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        check_slices(array, bounds, self.num_ranks)
        with self._collective(Call.of_slices(Verb.REDUCE_SCATTER, array, bounds)) as (comm, _, moved):
            sum_slices(array, bounds, self.mpi_rank, partial(_exchange, comm, moved), self._staging)

    def all_gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Give every rank the slices of all. Every rank must call this."""
        check_slices(array, bounds, self.num_ranks)
        piece_items = max(1, self._piece_bytes // array.itemsize)
        with self._collective(Call.of_slices(Verb.ALL_GATHER, array, bounds)) as (comm, _, moved):
            share_slices(array, bounds, self.mpi_rank, partial(_exchange, comm, moved), piece_items)

    def barrier(self) -> None:
        """Return when every rank has come here. Every rank must call this."""
        with self._collective(Call(Verb.BARRIER, ROOT)):
            pass

    def close(self) -> None:
        """Free the communicator. Every rank must call this; a second call does nothing."""
        if self._comm is not None:
            self._comm.Free()
            self._comm = None

    @cached_property
    def _staging(self) -> np.ndarray:
        """Where pieces are received that are then added; made once."""
        return np.empty(self._cached_items, np.int64)

    def _broadcast_view(self, comm: MPI.Comm, view: np.ndarray, root: int, moved: Moved) -> None:
        """Broadcast uint8 memory in bounded pieces."""
        for piece in pieces(view.size, self._piece_bytes):
            comm.Bcast([view[piece], MPI.BYTE], root=root)
        note_one_way(moved, view.size, gives=self.mpi_rank == root, num_ranks=self.num_ranks)

    def _receive(self, comm: MPI.Comm, num_bytes: int, mpi_rank: int) -> bytearray:
        """Receive what a rank gives to `gather_bytes`."""
        message = bytearray(num_bytes)
        view = np.frombuffer(message, np.uint8)
        for piece in pieces(num_bytes, self._piece_bytes):
            comm.Recv([view[piece], MPI.BYTE], mpi_rank)
        return message

    @contextmanager
    def _collective(self, call: Call) -> Iterator[tuple[MPI.Comm, list[int], Moved]]:
        """Watch over one verb and count it.

        Yields the communicator and each rank's byte count once all agree what is done, and what the verb counts into.
        """
        comm = self._comm
        assert comm is not None, "the channel is closed"
        check_root(call.root, self.num_ranks)
        what = f"rank {self.mpi_rank}: {call.verb.name.lower()} over MPI"
        limit = watchdog(self._watchdog_seconds, what, lambda: self._give_up(what))
        with limit, self.traffic.counted(call.verb.name.lower()) as moved:
            call_NC = np.empty((self.num_ranks, CALL_WORDS), np.int64)
            comm.Allgather(call.row(), call_NC)
            check_agreement(call_NC)
            yield comm, call_NC[:, NUM_BYTES_WORD].tolist(), moved

    def _give_up(self, what: str) -> None:
        """Say what took too long, and end the job even if nobody can be told."""
        try:
            self._on_stuck(what)
        finally:
            abort(1)


def _exchange(comm: MPI.Comm, moved: Moved, given: np.ndarray, to: int, got: np.ndarray, source: int) -> None:
    """Send and receive at once; an empty array is no message."""
    comm.Sendrecv(
        [byte_view(given), MPI.BYTE],
        to if given.size else MPI.PROC_NULL,
        recvbuf=[byte_view(got), MPI.BYTE],
        source=source if got.size else MPI.PROC_NULL,
    )
    moved.sent_bytes += given.nbytes
    moved.received_bytes += got.nbytes
