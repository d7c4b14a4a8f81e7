"""The channel over torch.distributed (gloo, CPU tensors), for launchers that start processes but no MPI."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial

import numpy as np
import torch
import torch.distributed as dist

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
from heterotune.collective.interfaces import interface_toward_master, socket_variables
from heterotune.collective.traffic import Moved, Traffic, note_one_way
from heterotune.errors import LaunchError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_DEFAULT_WATCHDOG_SECONDS = 1800.0


class TorchChannel:
    """A channel over a gloo group of all processes; see `channel.Channel`. Every rank must make one."""

    name = "torch"

    def __init__(self, *, watchdog_seconds: float | None = None, piece_bytes: int = MAX_PIECE_BYTES) -> None:
        """Join the job that the environment describes, or make a group of our own where torch.distributed already runs.

        Args:
            watchdog_seconds: A verb that waits longer raises on this rank; None is torch's own 30 minutes.
            piece_bytes: The largest buffer per call, at least 8; the same on every rank.

        Raises:
            LaunchError: If torch.distributed does not run yet and the environment lacks what it needs to start.
        """
        assert piece_bytes >= 8
        timeout = timedelta(seconds=watchdog_seconds or _DEFAULT_WATCHDOG_SECONDS)
        self._owns_process_group = not dist.is_initialized()
        if self._owns_process_group:
            _check_environment()
            _start_torch(timeout)
        self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._piece_bytes = piece_bytes
        self.traffic = Traffic()
        self.mpi_rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()

    def broadcast(self, array: np.ndarray, root: int = ROOT) -> None:
        """Overwrite `array` with the root's. Every rank must call this."""
        view = byte_view(array)
        with self._collective(Call.of_array(Verb.BROADCAST, array, root)) as (_, moved):
            self._broadcast_view(view, root, moved)

    def broadcast_bytes(self, data: Message | None, root: int = ROOT) -> Message:
        """Return the root's `data` on every rank. Every rank must call this."""
        is_root = self.mpi_rank == root
        assert not is_root or data is not None, "the root must have the bytes"
        with self._collective(Call(Verb.BROADCAST_BYTES, root, len(data) if is_root else 0)) as (sizes_N, moved):
            message = data if is_root else bytearray(sizes_N[root])
            self._broadcast_view(np.frombuffer(message, np.uint8), root, moved)
        return message

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Add the ranks' int64 arrays at the root. Every rank must call this."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        view = byte_view(array).view(np.int64)
        with self._collective(Call.of_array(Verb.SUM_TO_ROOT, array, root)) as (_, moved):
            for piece in pieces(view.size, self._piece_bytes // 8):
                dist.reduce(torch.from_numpy(view[piece]), dst=root, op=dist.ReduceOp.SUM, group=self._group)
            note_one_way(moved, array.nbytes, gives=self.mpi_rank != root, num_ranks=self.num_ranks)

    def gather_bytes(self, data: Message, root: int = ROOT) -> list[Message] | None:
        """Return every rank's `data` at the root, in MPI-rank order. Every rank must call this."""
        with self._collective(Call(Verb.GATHER_BYTES, root, len(data))) as (sizes_N, moved):
            if self.mpi_rank != root:
                self._send(np.frombuffer(data, np.uint8), root)
                moved.sent_bytes = len(data)
                return None
            moved.received_bytes = sum(sizes_N) - len(data)
            return [data if rank == root else self._receive(size, rank) for rank, size in enumerate(sizes_N)]

    def reduce_scatter(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Add the ranks' int64 arrays, each slice at its own rank. Every rank must call this."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        check_slices(array, bounds, self.num_ranks)
        with self._collective(Call.of_slices(Verb.REDUCE_SCATTER, array, bounds)) as (_, moved):
            sum_slices(array, bounds, self.mpi_rank, partial(self._exchange, moved), self._staging)

    def all_gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Give every rank the slices of all. Every rank must call this."""
        check_slices(array, bounds, self.num_ranks)
        piece_items = max(1, self._piece_bytes // array.itemsize)
        with self._collective(Call.of_slices(Verb.ALL_GATHER, array, bounds)) as (_, moved):
            share_slices(array, bounds, self.mpi_rank, partial(self._exchange, moved), piece_items)

    def barrier(self) -> None:
        """Return when every rank has come here. Every rank must call this."""
        with self._collective(Call(Verb.BARRIER, ROOT)):
            pass

    def close(self) -> None:
        """Free the group, and torch.distributed if this channel started it. Every rank must call this."""
        if self._group is None:
            return
        dist.destroy_process_group(self._group)
        self._group = None
        if self._owns_process_group:
            dist.destroy_process_group()

    @cached_property
    def _staging(self) -> np.ndarray:
        """Where pieces are received that are then added; made once."""
        return np.empty(min(self._piece_bytes, CACHED_PIECE_BYTES) // 8, np.int64)

    def _broadcast_view(self, view: np.ndarray, root: int, moved: Moved) -> None:
        """Broadcast uint8 memory in bounded pieces."""
        for piece in pieces(view.size, self._piece_bytes):
            dist.broadcast(_tensor(view[piece]), src=root, group=self._group)
        note_one_way(moved, view.size, gives=self.mpi_rank == root, num_ranks=self.num_ranks)

    def _send(self, view: np.ndarray, root: int) -> None:
        """Send uint8 memory to the root in bounded pieces."""
        for piece in pieces(view.size, self._piece_bytes):
            dist.send(_tensor(view[piece]), dst=root, group=self._group)

    def _receive(self, num_bytes: int, mpi_rank: int) -> bytearray:
        """Receive what `_send` sends."""
        message = bytearray(num_bytes)
        view = np.frombuffer(message, np.uint8)
        for piece in pieces(num_bytes, self._piece_bytes):
            dist.recv(torch.from_numpy(view[piece]), src=mpi_rank, group=self._group)
        return message

    def _exchange(self, moved: Moved, given: np.ndarray, to: int, got: np.ndarray, source: int) -> None:
        """Send and receive at once; an empty array is no message."""
        works = []
        if given.size:
            works.append(dist.isend(_tensor(byte_view(given)), dst=to, group=self._group))
        if got.size:
            works.append(dist.irecv(_tensor(byte_view(got)), src=source, group=self._group))
        for work in works:
            work.wait()
        moved.sent_bytes += given.nbytes
        moved.received_bytes += got.nbytes

    @contextmanager
    def _collective(self, call: Call) -> Iterator[tuple[list[int], Moved]]:
        """Yield each rank's byte count once all ranks agree what is done, and what the verb counts into."""
        assert self._group is not None, "the channel is closed"
        check_root(call.root, self.num_ranks)
        with self.traffic.counted(call.verb.name.lower()) as moved:
            call_NC = torch.empty((self.num_ranks, CALL_WORDS), dtype=torch.int64)
            dist.all_gather(list(call_NC.unbind()), torch.from_numpy(call.row()), group=self._group)
            check_agreement(call_NC.numpy())
            yield call_NC[:, NUM_BYTES_WORD].tolist(), moved


def _start_torch(timeout: timedelta) -> None:
    """Start torch.distributed, gloo on the interface that leads to MASTER_ADDR: its own guess is often loopback."""
    store, mpi_rank, num_ranks = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    interface = interface_toward_master(
        store, mpi_rank=mpi_rank, num_ranks=num_ranks, master_address=os.environ["MASTER_ADDR"]
    )
    os.environ |= socket_variables(interface, os.environ)
    dist.init_process_group("gloo", store=store, rank=mpi_rank, world_size=num_ranks, timeout=timeout)


def _check_environment() -> None:
    """Refuse an environment from which torch.distributed cannot start."""
    missing = [variable for variable in _VARIABLES if not os.environ.get(variable)]
    if missing:
        raise LaunchError(
            f"torch.distributed needs {', '.join(missing)} in the environment. "
            "Start the ranks with torchrun or the deepspeed launcher, or with mpirun to use MPI."
        )


def _tensor(view: np.ndarray) -> torch.Tensor:
    """Return the same memory as a tensor. torch knows no read-only memory; what is sent or broadcast is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(view)
