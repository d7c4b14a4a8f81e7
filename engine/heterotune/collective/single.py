"""The channel of a job of one process: the reference for all others."""

from __future__ import annotations

import numpy as np

from heterotune.collective.agreement import check_root
from heterotune.collective.channel import ROOT, byte_view
from heterotune.collective.traffic import Traffic


class SingleChannel:
    """A channel with nobody at the other end; see `channel.Channel`."""

    name = "single"
    mpi_rank = 0
    num_ranks = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def broadcast(self, array: np.ndarray, root: int = ROOT) -> None:
        """Leave `array` as it is."""
        check_root(root, self.num_ranks)
        byte_view(array)

    def broadcast_bytes(self, data: bytes | None, root: int = ROOT) -> bytes:
        """Return `data`."""
        check_root(root, self.num_ranks)
        assert data is not None, "the root must have the bytes"
        return bytes(data)

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Leave `array` as it is: the sum over one rank."""
        check_root(root, self.num_ranks)
        assert array.dtype == np.int64, "only int64 sums are exact"
        byte_view(array)

    def gather_bytes(self, data: bytes, root: int = ROOT) -> list[bytes] | None:
        """Return `[data]`."""
        check_root(root, self.num_ranks)
        return [bytes(data)]

    def barrier(self) -> None:
        """Return."""

    def close(self) -> None:
        """Free nothing."""
