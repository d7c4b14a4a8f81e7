"""The few things that ranks say to one another. Every channel is one implementation of this protocol.

Results depend neither on the channel nor on the number of ranks: sums are of int64, and gathers come in MPI-rank order.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from heterotune.collective.traffic import Traffic

ROOT = 0
MAX_PIECE_BYTES = 1 << 30
"""The largest buffer for one library call: MPI counts end at 2^31 - 1, and staging copies stay bounded."""


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

    def broadcast_bytes(self, data: bytes | None, root: int = ROOT) -> bytes:
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

    def gather_bytes(self, data: bytes, root: int = ROOT) -> list[bytes] | None:
        """Return every rank's `data` at the root, in MPI-rank order, and None elsewhere. Every rank must call this.

        Args:
            data: Any length, also none, and a different one on every rank.
            root: The rank that gets the list.

        Raises:
            CollectiveError: If the ranks' calls differ.
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
