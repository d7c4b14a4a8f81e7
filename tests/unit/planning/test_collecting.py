"""The way from sums to new values: what a root and slices cost, and where they cross."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from heterotune.planning.calibration import CPU_CORE
from heterotune.planning.collecting import CALLS, collect_seconds, crossover_values

CHOSEN = replace(
    CPU_CORE, combine_seconds=4.0, take_seconds=1.0, pack_seconds=0.5, message_seconds=2.0, gather_bytes_per_second=12.0
)


def seconds(topology: str, num_values: float, num_ranks: int, **more: float) -> float:
    return collect_seconds(topology, num_values, num_ranks, CHOSEN, 12.0, **more)


def test_one_rank_moves_nothing() -> None:
    assert seconds("root", 10, 1) == 10 * (4 + 1)
    assert seconds("sharded", 10, 1) == 10 * (4 + 1 + 0.5)


def test_a_root_combines_alone_and_slices_together() -> None:
    begun = CALLS * 2 * 2.0  # two hops between four ranks
    assert seconds("root", 10, 4) == begun + 10 + 2 * 10 + 40
    assert seconds("sharded", 10, 4) == begun + 10 + 5 + 2 * 3 * 2.0 + (3 * 10 + 40) / 4


def test_ranks_that_share_cores_take_turns() -> None:
    assert seconds("root", 10, 4, num_cores=2) == 2 * (CALLS * 2 * 2.0 + 10) + 2 * 10 + 40
    assert seconds("sharded", 10, 4, num_cores=2) == 2 * seconds("sharded", 10, 4)


@pytest.mark.parametrize("num_ranks", [2, 8, 1024])
def test_at_the_crossover_both_are_equally_quick(num_ranks) -> None:
    num_values = crossover_values(num_ranks, CHOSEN, 12.0)
    assert 0 < num_values < math.inf
    assert seconds("root", num_values, num_ranks) == pytest.approx(seconds("sharded", num_values, num_ranks))
    assert seconds("sharded", 2 * num_values, num_ranks) < seconds("root", 2 * num_values, num_ranks)


def test_slices_that_cost_more_than_they_save_are_never_quicker() -> None:
    assert crossover_values(2, replace(CHOSEN, pack_seconds=99.0), 12.0) == math.inf
