"""The few things that ranks say to one another. Every channel is one implementation of this protocol.

Results depend neither on the channel nor on the number of ranks: sums are of int64, and gathers come in MPI-rank order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from heterotune.collective.traffic import Traffic

ROOT = 0
MAX_PIECE_BYTES = 1 << 30
"""The largest buffer for one library call: MPI counts end at 2^31 - 1, and staging copies stay bounded."""
CACHED_PIECE_BYTES = 4 << 20
"""The largest piece of what is added on the way: the library's and our own copies then stay in a core's cache."""

Message = bytes | bytearray
"""Bytes that came; nobody changes them. What was received stays in the buffer that it was received in."""


class Channel(Protocol):
    """Collective operations between the ranks of a job.

    Every rank must call every verb in the same order with the same root, dtype and length. Ranks that do not get a
    `CollectiveError` that says who called what, instead of a hang or of mixed-up data.
    """

    name: str
    """"single", "mpi" or "torch"."""
    mpi_rank: int
    """This rank, 0 .. num_ranks - 1."""
    num_ranks: int
    traffic: Traffic
    """What this rank moved."""

    def broadcast(self, array: np.ndarray, root: int = ROOT) -> None:
        """Overwrite `array` with the root's. Every rank must call this.

        Args:
            array: C-contiguous, any numeric dtype and shape, the same on every rank. Changed in place.
            root: The rank whose values are kept.

        Raises:
            CollectiveError: If the ranks' calls differ.
        """
        ...

    def broadcast_bytes(self, data: Message | None, root: int = ROOT) -> Message:
        """Return the root's `data` on every rank. Every rank must call this.

        Args:
            data: The bytes at the root; ignored (may be None) elsewhere.
            root: The rank that has the bytes.

        Raises:
            CollectiveError: If the ranks' calls differ.
        """
        ...

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Add the ranks' arrays, elementwise and exactly, at the root. Every rank must call this.

        Args:
            array: int64, C-contiguous, writable, the same shape on every rank. Changed in place: the sum at the root,
                unspecified elsewhere.
            root: The rank that gets the sum.

        Raises:
            CollectiveError: If the ranks' calls differ.
        """
        ...

    def gather_bytes(self, data: Message, root: int = ROOT) -> list[Message] | None:
        """Return every rank's `data` at the root, in MPI-rank order, and None elsewhere. Every rank must call this.

        Args:
            data: Any length, also none, and a different one on every rank.
            root: The rank that gets the list.

        Raises:
            CollectiveError: If the ranks' calls differ.
        """
        ...

    def reduce_scatter(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Add the ranks' arrays, elementwise and exactly, each slice at its own rank. Every rank must call this.

        Args:
            array: int64, shape (items,), C-contiguous, writable, of one length on all ranks. Changed in place: the sum
                in `array[bounds[mpi_rank]:bounds[mpi_rank + 1]]`, unspecified elsewhere.
            bounds: num_ranks + 1 rising numbers from 0 to the number of items; the same on every rank.

        Raises:
            CollectiveError: If the ranks' calls differ, or if `bounds` do not cover the array.
        """
        ...

    def all_gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Give every rank the slices of all. Every rank must call this.

        Args:
            array: Any numeric dtype, shape (items,), C-contiguous, of one length on all ranks. Changed in place: each
                rank's own slice `array[bounds[mpi_rank]:bounds[mpi_rank + 1]]` comes to all others.
            bounds: As in `reduce_scatter`.

        Raises:
            CollectiveError: If the ranks' calls differ, or if `bounds` do not cover the array.
        """
        ...

    def barrier(self) -> None:
        """Return when every rank has come here. Every rank must call this."""
        ...

    def close(self) -> None:
        """Free what the channel holds. Every rank must call this; a second call does nothing."""
        ...


def byte_view(array: np.ndarray) -> np.ndarray:
    """Return `array`'s own memory as uint8, shape (bytes,); no copy."""
    assert array.flags.c_contiguous, "a channel moves C-contiguous arrays only"
    return array.reshape(-1).view(np.uint8)


def pieces(num_items: int, piece_items: int) -> list[slice]:
    """Return slices of at most `piece_items` that cover `num_items` in order; none for an empty buffer."""
    assert piece_items > 0
    return [slice(start, min(start + piece_items, num_items)) for start in range(0, num_items, piece_items)]
