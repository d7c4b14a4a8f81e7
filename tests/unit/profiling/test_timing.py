"""Seconds add up by phase, also when a phase raises."""

from __future__ import annotations

import pytest

from heterotune.profiling.timing import Stopwatch


def test_seconds_add_up_and_drain_begins_anew() -> None:
    ticks = iter([0.0, 2.0, 10.0, 11.0, 20.0, 25.0])
    stopwatch = Stopwatch(lambda: next(ticks))
    with stopwatch.phase("train"):
        pass
    with pytest.raises(KeyError), stopwatch.phase("gather"):
        raise KeyError
    with stopwatch.phase("train"):
        pass
    assert stopwatch.drain() == {"train": 7.0, "gather": 1.0}
    assert stopwatch.drain() == {}
