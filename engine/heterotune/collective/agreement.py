"""Ranks tell one another what they are about to do before they do it, so that a mix-up is an error and not a hang."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from heterotune.errors import CollectiveError


class Verb(IntEnum):
    """What a rank can ask of a channel. The numbers travel between ranks."""

    BARRIER = 1
    BROADCAST = 2
    BROADCAST_BYTES = 3
    SUM_TO_ROOT = 4
    GATHER_BYTES = 5
    REDUCE_SCATTER = 6
    ALL_GATHER = 7


CALL_WORDS = 5
NUM_BYTES_WORD = 2
"""Which word of a row is `Call.num_bytes`."""
_ANY_LENGTH = (Verb.BROADCAST_BYTES, Verb.GATHER_BYTES)
_NO_DTYPE = -1
_ANY_ROOT = 0


@dataclass(frozen=True)
class Call:
    """One rank's side of one collective operation."""

    verb: Verb
    root: int
    num_bytes: int = 0
    dtype_number: int = _NO_DTYPE
    slices_checksum: int = 0

    @classmethod
    def of_array(cls, verb: Verb, array: np.ndarray, root: int) -> Call:
        """Describe a call that moves `array`."""
        return cls(verb, root, array.nbytes, array.dtype.num)

    @classmethod
    def of_slices(cls, verb: Verb, array: np.ndarray, bounds: Sequence[int]) -> Call:
        """Describe a call that moves slices of `array`."""
        checksum = zlib.crc32(np.array(bounds, dtype=np.int64))
        return cls(verb, _ANY_ROOT, array.nbytes, array.dtype.num, checksum)

    def row(self) -> np.ndarray:
        """Return the call as int64, shape (CALL_WORDS,), for an allgather."""
        words = [self.verb, self.root, self.num_bytes, self.dtype_number, self.slices_checksum]
        return np.array(words, dtype=np.int64)


def check_root(root: int, num_ranks: int) -> None:
    """Refuse a root that is not a rank of the job.

    Raises:
        CollectiveError: If `root` is outside 0 .. num_ranks - 1.
    """
    if not 0 <= root < num_ranks:
        raise CollectiveError(f"root {root} is not one of the {num_ranks} ranks (0 to {num_ranks - 1})")


def check_slices(array: np.ndarray, bounds: Sequence[int], num_ranks: int) -> None:
    """Refuse slices that do not give every item of an array to one rank.

    Raises:
        CollectiveError: If `bounds` are not `num_ranks` + 1 numbers that rise from 0 to the number of items.
    """
    assert array.ndim == 1 and array.flags.c_contiguous, "slices are of one-dimensional, C-contiguous arrays"
    rising = all(start <= stop for start, stop in pairwise(bounds))
    if len(bounds) != num_ranks + 1 or bounds[0] != 0 or bounds[-1] != array.size or not rising:
        raise CollectiveError(
            f"slices of {array.size} items for {num_ranks} ranks are {num_ranks + 1} rising bounds from 0 to "
            f"{array.size}, not {list(bounds)}"
        )


def check_agreement(call_NC: np.ndarray) -> None:
    """Refuse calls that do not belong together.

    Args:
        call_NC: One row per rank as made by `Call.row`, int64, shape (ranks, CALL_WORDS).

    Raises:
        CollectiveError: On every rank alike; says the call of the first rank of each kind.
    """
    compared_NC = call_NC.copy()
    compared_NC[np.isin(compared_NC[:, 0], _ANY_LENGTH), NUM_BYTES_WORD] = 0
    if (compared_NC == compared_NC[0]).all():
        return
    _, first_ranks = np.unique(compared_NC, axis=0, return_index=True)
    said = "; ".join(f"rank {mpi_rank}: {_spoken(call_NC[mpi_rank])}" for mpi_rank in sorted(first_ranks.tolist()))
    raise CollectiveError(
        f"the ranks disagree about a collective operation ({said}); all must make the same calls in the same order"
    )


def _spoken(row_C: np.ndarray) -> str:
    """Say a call in words."""
    verb, root, num_bytes, dtype_number, checksum = (int(word) for word in row_C)
    slices = f", slices {checksum:08x}" if checksum else ""
    return f"{Verb(verb).name.lower()}(root {root}, {num_bytes} bytes, dtype number {dtype_number}{slices})"
