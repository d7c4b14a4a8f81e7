"""Slices, one for each rank, moved in pairwise exchanges: what channels build reduce_scatter and all_gather on.

In turn s every rank gives to the one s places after it and gets from the one s places before it, so that links are
used in both directions and nobody waits for a root. Each rank sends and gets every item at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np

from heterotune.collective.channel import pieces

Exchange = Callable[[np.ndarray, int, np.ndarray, int], None]
"""(what this rank gives, to whom, where what it gets goes, from whom): one-dimensional, either may be empty."""

_NOTHING = slice(0, 0)


def sum_slices(
    array: np.ndarray, bounds: Sequence[int], mpi_rank: int, exchange: Exchange, staging: np.ndarray
) -> None:
    """Add all ranks' values of this rank's slice into it; see `Channel.reduce_scatter`.

    Args:
        array: int64, shape (items,).
        bounds: The slices.
        mpi_rank: This rank.
        exchange: Sends and receives.
        staging: What others send is received here, piece by piece; int64, at least one item, as long on every rank.
    """
    num_ranks = len(bounds) - 1
    mine = _slice_of(array, bounds, mpi_rank)
    for turn in range(1, num_ranks):
        to, source = (mpi_rank + turn) % num_ranks, (mpi_rank - turn) % num_ranks
        theirs = _slice_of(array, bounds, to)
        for give, get in _in_pieces(theirs.size, mine.size, staging.size):
            received = staging[: get.stop - get.start]
            exchange(theirs[give], to, received, source)
            mine[get] += received


def share_slices(array: np.ndarray, bounds: Sequence[int], mpi_rank: int, exchange: Exchange, piece_items: int) -> None:
    """Send this rank's slice to all others and get theirs; see `Channel.all_gather`.

    Args:
        array: shape (items,).
        bounds: The slices.
        mpi_rank: This rank.
        exchange: Sends and receives.
        piece_items: The most items in one exchange.
    """
    num_ranks = len(bounds) - 1
    mine = _slice_of(array, bounds, mpi_rank)
    for turn in range(1, num_ranks):
        to, source = (mpi_rank + turn) % num_ranks, (mpi_rank - turn) % num_ranks
        theirs = _slice_of(array, bounds, source)
        for give, get in _in_pieces(mine.size, theirs.size, piece_items):
            exchange(mine[give], to, theirs[get], source)


def _slice_of(array: np.ndarray, bounds: Sequence[int], mpi_rank: int) -> np.ndarray:
    """Return a rank's slice; no copy."""
    return array[bounds[mpi_rank] : bounds[mpi_rank + 1]]


def _in_pieces(num_given: int, num_got: int, piece_items: int) -> list[tuple[slice, slice]]:
    """Return pieces of what is given and got; giver and getter of a slice cut it alike: an empty one is no message."""
    return list(zip_longest(pieces(num_given, piece_items), pieces(num_got, piece_items), fillvalue=_NOTHING))
