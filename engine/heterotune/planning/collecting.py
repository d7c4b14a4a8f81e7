"""How long the way from the ranks' sums to the values that all have again takes, at the root or in slices.

Our derivation from `topology.py` and `collective/exchange.py`, for P values that travel as 8 bytes up (exact sums):

- root: a tree of ceil(log2 N) hops carries all sums up and all messages down, and one rank combines all values;
- sharded: N - 1 messages each way carry a slice to and from everybody, and every rank combines its slice.

So a root is quicker for few values and many ranks, slices are for many values; `crossover_values` says from where on.
"""

from __future__ import annotations

import math

from heterotune.config.field_types import TopologyName
from heterotune.planning.calibration import Calibration

SUM_BYTES = 8
VALUE_BYTES = 4
CALLS = 8
"""Calls of a channel in a round: each begins with a word from every rank to every rank that they mean the same."""


def collect_seconds(
    topology: TopologyName,
    num_values: float,
    num_ranks: int,
    chosen: Calibration,
    bytes_per_second: float,
    num_cores: float = math.inf,
) -> float:
    """Return the seconds of gathering, combining and broadcasting.

    Args:
        topology: Where values are combined.
        num_values: Values that travel, of all model types.
        num_ranks: MPI ranks.
        chosen: Says what a value and a message cost.
        bytes_per_second: Between two ranks, in each direction.
        num_cores: Where all ranks run, if they have fewer cores than ranks: then they take turns.
    """
    turns, others = max(1.0, num_ranks / num_cores), num_ranks - 1
    hops = math.ceil(math.log2(num_ranks)) if num_ranks > 1 else 0
    on_all = CALLS * hops * chosen.message_seconds + num_values * chosen.take_seconds
    moved = num_values * (SUM_BYTES + VALUE_BYTES) / bytes_per_second
    combined = num_values * chosen.combine_seconds
    if topology == "root":
        return turns * on_all + max(hops, others / num_cores) * moved + combined
    on_all += num_values * chosen.pack_seconds + 2 * others * chosen.message_seconds
    return turns * (on_all + (others * moved + combined) / num_ranks)


def crossover_values(num_ranks: int, chosen: Calibration, bytes_per_second: float) -> float:
    """Return the number of values from which on slices are quicker than a root; infinite where they never are."""

    def lead(num_values: float) -> float:
        """Return by how many seconds a root is quicker; a straight line in the number of values."""
        root, sharded = (
            collect_seconds(name, num_values, num_ranks, chosen, bytes_per_second) for name in ("root", "sharded")
        )
        return sharded - root

    at_zero, slope = lead(0.0), lead(1.0e9) - lead(0.0)
    return math.inf if slope >= 0 else at_zero / (-slope / 1.0e9)
