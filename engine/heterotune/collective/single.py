"""The channel of a job of one process: the reference for all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterotune.collective.agreement import Verb, check_root, check_slices
from heterotune.collective.channel import ROOT, Message, byte_view
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
        self._count(Verb.BROADCAST)

    def broadcast_bytes(self, data: Message | None, root: int = ROOT) -> Message:
        """Return `data`."""
        check_root(root, self.num_ranks)
        assert data is not None, "the root must have the bytes"
        self._count(Verb.BROADCAST_BYTES)
        return data

    def sum_to_root(self, array: np.ndarray, root: int = ROOT) -> None:
        """Leave `array` as it is: the sum over one rank."""
        check_root(root, self.num_ranks)
        assert array.dtype == np.int64, "only int64 sums are exact"
        byte_view(array)
        self._count(Verb.SUM_TO_ROOT)

    def gather_bytes(self, data: Message, root: int = ROOT) -> list[Message] | None:
        """Return `[data]`."""
        check_root(root, self.num_ranks)
        self._count(Verb.GATHER_BYTES)
        return [data]

    def reduce_scatter(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Leave `array` as it is: one rank owns all of it."""
        assert array.dtype == np.int64, "only int64 sums are exact"
        check_slices(array, bounds, self.num_ranks)
        self._count(Verb.REDUCE_SCATTER)

    def all_gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Leave `array` as it is: one rank owns all of it."""
        check_slices(array, bounds, self.num_ranks)
        self._count(Verb.ALL_GATHER)

    def barrier(self) -> None:
        """Return."""
        self._count(Verb.BARRIER)

    def close(self) -> None:
        """Free nothing."""

    def _count(self, verb: Verb) -> None:
        """Count a call that moved nothing."""
        self.traffic.add(verb.name.lower(), sent_bytes=0, received_bytes=0, seconds=0.0)
