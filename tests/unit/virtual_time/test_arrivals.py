"""Who counts in a round, on flights that one can look through."""

from __future__ import annotations

import pytest

from heterotune.aggregation.quarantine import Verdict
from heterotune.config.clock_options import ClockOptions
from heterotune.fleet.clients import Client
from heterotune.virtual_time.arrivals import Flight, take


def flight(client_id: int, end: float, *, place: int = 0, lost: bool = False) -> Flight:
    verdict = Verdict(client_id, "dropped_out" if lost else None)
    return Flight(Client(client_id, place, 3), 1, 0.0, end, lost, verdict)


FLIGHTS = [flight(4, 5.0), flight(1, 9.0), flight(2, 5.0), flight(3, 7.0, lost=True), flight(5, 12.0, place=1)]


def ids(flights) -> list[int]:
    return [each.client.client_id for each in flights]


def taken(wanted: dict[int, int] | None = None, flights=FLIGHTS, now: float = 1.0, **options):
    return take(flights, ClockOptions(**options), now_seconds=now, wanted=wanted or {})


def test_a_synchronous_round_waits_for_the_slowest():
    found = taken(mode="synchronous")
    assert (found.end_seconds, ids(found.arrived), ids(found.lost)) == (12.0, [2, 4, 1, 5], [3])
    assert found.late == found.in_flight == ()
    assert taken(flights=[flight(0, 8.0, lost=True)], mode="synchronous").end_seconds == 8.0  # until it is known


def test_a_deadline_drops_what_is_late():
    found = taken(mode="deadline", deadline_seconds=4.0)
    assert (found.end_seconds, ids(found.arrived), ids(found.late)) == (5.0, [2, 4], [1, 5])
    assert ids(found.lost) == [3] and found.in_flight == ()


def test_a_deadline_lets_late_updates_come_in_a_later_round():
    found = taken(mode="deadline", deadline_seconds=4.0, late="accept")
    assert ids(found.arrived) == [2, 4] and found.late == found.lost == ()
    assert ids(found.in_flight) == [3, 1, 5]
    later = taken(flights=found.in_flight, now=5.0, mode="deadline", deadline_seconds=4.0, late="accept")
    assert (later.end_seconds, ids(later.arrived), ids(later.lost), ids(later.in_flight)) == (9.0, [1], [3], [5])


def test_a_round_ends_before_its_deadline_if_nobody_is_missing():
    assert taken(mode="deadline", deadline_seconds=60.0).end_seconds == 12.0


def test_over_selection_takes_the_first_of_each_model_type():
    found = taken({0: 2, 1: 1}, mode="over_selection", over_select=2.0)
    assert (ids(found.arrived), ids(found.late), found.end_seconds) == ([2, 4, 5], [1], 12.0)
    found = taken({0: 1}, flights=FLIGHTS[:4], mode="over_selection", over_select=2.0)
    assert (ids(found.arrived), ids(found.late), found.end_seconds) == ([2], [4, 1], 5.0)  # a tie: the smaller number


def test_over_selection_waits_for_a_client_that_drops_out_only_if_it_is_needed():
    flights = [flight(1, 2.0), flight(2, 9.0, lost=True)]
    assert taken({0: 1}, flights=flights, mode="over_selection", over_select=2.0).end_seconds == 2.0
    assert taken({0: 2}, flights=flights, mode="over_selection", over_select=2.0).end_seconds == 9.0


@pytest.mark.parametrize(
    ("buffer", "arrived", "lost", "in_flight", "end"),
    [
        (1, [2], [], [4, 3, 1, 5], 5.0),
        (2, [2, 4], [], [3, 1, 5], 5.0),
        (3, [2, 4, 1], [3], [5], 9.0),
        (5, [2, 4, 1, 5], [3], [], 12.0),
    ],
)
def test_a_buffer_takes_the_earliest(buffer, arrived, lost, in_flight, end):
    found = taken(mode="buffered", concurrency=9, buffer=buffer)
    assert (ids(found.arrived), ids(found.lost), ids(found.in_flight)) == (arrived, lost, in_flight)
    assert found.end_seconds == end


@pytest.mark.parametrize("mode", [{"mode": "synchronous"}, {"mode": "buffered", "concurrency": 2, "buffer": 1}])
def test_a_round_without_flights_takes_no_time_and_time_never_goes_back(mode):
    assert taken(flights=[], now=7.0, **mode).end_seconds == 7.0
    assert taken(flights=[flight(1, 3.0)], now=7.0, **mode).end_seconds == 7.0
