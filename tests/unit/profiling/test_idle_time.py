"""The share of a round in which a rank waits: which calls count, and what is kept over rounds and jobs."""

from __future__ import annotations

from heterotune.profiling.idle_time import IdleTime, idle_metrics


def test_calls_of_the_channel_count_and_gathers_of_weights_do_not() -> None:
    idle = IdleTime()
    idle.waited("barrier", 5.0)
    idle.begin_round()
    for what, seconds in (("gather_bytes", 1.0), ("sum_to_root", 0.5), ("zero3_gather", 3.0)):
        idle.waited(what, seconds)
    assert idle.of_round(0.5, 8.0) == [2.0, 8.0]
    assert idle.of_round(90.0, 8.0) == [8.0, 8.0]


def test_shares_are_those_of_all_rounds_also_after_going_on_with_more_ranks() -> None:
    idle = IdleTime()
    assert idle.add([[1.0, 4.0], [0.0, 4.0]]) == [0.25, 0.0]
    later = IdleTime()
    later.restore(idle.state())
    later.add([[3.0, 4.0], [1.0, 4.0], [0.0, 0.0]])
    assert later.shares() == {0: 0.5, 1: 0.125, 2: 0.0}


def test_a_metric_says_its_rank() -> None:
    assert idle_metrics([0.5])[0] == {
        "name": "rank/idle_share", "unit": "share of the round", "mpi_rank": 0, "value": 0.5
    }  # fmt: skip
