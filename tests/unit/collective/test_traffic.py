"""Counting what the simulator moves."""

from __future__ import annotations

from heterotune.collective.traffic import Moved, Traffic


def test_calls_of_a_verb_add_up_until_they_are_drained():
    traffic = Traffic()
    traffic.add("broadcast", sent_bytes=8, received_bytes=0, seconds=0.5)
    traffic.add("sum_to_root", sent_bytes=1, received_bytes=2, seconds=0.25)
    traffic.add("broadcast", sent_bytes=4, received_bytes=1, seconds=0.25)
    assert traffic.drain() == {"broadcast": Moved(2, 12, 1, 0.75), "sum_to_root": Moved(1, 1, 2, 0.25)}
    assert traffic.drain() == {}
