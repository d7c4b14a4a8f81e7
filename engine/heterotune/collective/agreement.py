"""Ranks tell one another what they are about to do before they do it, so that a mix-up is an error and not a hang."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from heterotune.errors import CollectiveError


class Verb(IntEnum):
    """What a rank can ask of a channel. The numbers travel between ranks."""

    BARRIER = 1
    BROADCAST = 2
    BROADCAST_BYTES = 3
    SUM_TO_ROOT = 4
    GATHER_BYTES = 5


CALL_WORDS = 4
_ANY_LENGTH = (Verb.BROADCAST_BYTES, Verb.GATHER_BYTES)
_NO_DTYPE = -1


@dataclass(frozen=True)
class Call:
    """One rank's side of one collective operation."""

    verb: Verb
    root: int
    num_bytes: int = 0
    dtype_number: int = _NO_DTYPE

    @classmethod
    def of_array(cls, verb: Verb, array: np.ndarray, root: int) -> Call:
        """Describe a call that moves `array`."""
        return cls(verb, root, array.nbytes, array.dtype.num)

    def row(self) -> np.ndarray:
        """Return the call as int64, shape (CALL_WORDS,), for an allgather."""
        return np.array([self.verb, self.root, self.num_bytes, self.dtype_number], dtype=np.int64)


def check_root(root: int, num_ranks: int) -> None:
    """Refuse a root that is not a rank of the job.

    Raises:
        CollectiveError: If `root` is outside 0 .. num_ranks - 1.
    """
    if not 0 <= root < num_ranks:
        raise CollectiveError(f"root {root} is not one of the {num_ranks} ranks (0 to {num_ranks - 1})")


def check_agreement(call_NC: np.ndarray) -> None:
    """Refuse calls that do not belong together.

    Args:
        call_NC: One row per rank as made by `Call.row`, int64, shape (ranks, CALL_WORDS).

    Raises:
        CollectiveError: On every rank alike; says the call of the first rank of each kind.
    """
    compared_NC = call_NC.copy()
    compared_NC[np.isin(compared_NC[:, 0], _ANY_LENGTH), 2] = 0
    if (compared_NC == compared_NC[0]).all():
        return
    _, first_ranks = np.unique(compared_NC, axis=0, return_index=True)
    said = "; ".join(f"rank {mpi_rank}: {_spoken(call_NC[mpi_rank])}" for mpi_rank in sorted(first_ranks.tolist()))
    raise CollectiveError(
        f"the ranks disagree about a collective operation ({said}); all must make the same calls in the same order"
    )


def _spoken(row_C: np.ndarray) -> str:
    """Say a call in words."""
    verb, root, num_bytes, dtype_number = (int(word) for word in row_C)
    return f"{Verb(verb).name.lower()}(root {root}, {num_bytes} bytes, dtype number {dtype_number})"
