"""What the clock keeps between rounds: time, energy, and who is on the way."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from heterotune.aggregation.quarantine import Verdict
from heterotune.config.clock_options import ClockOptions
from heterotune.errors import CheckpointError
from heterotune.fleet.clients import Client
from heterotune.fleet.devices import Device
from heterotune.virtual_time.client_time import ClientWork
from heterotune.virtual_time.virtual_clock import Report, VirtualClock, clock_metrics

DEVICE = Device("phone", 1.0, 1, 1.0, 1.0, 0.0, compute_watts=4.0, radio_watts=1.0, idle_watts=0.5)
SYNCHRONOUS = ClockOptions(mode="synchronous")
BUFFERED = ClockOptions(mode="buffered", concurrency=2, buffer=1)


def report(client_id: int, flops: int, *, reason: str | None = None, up_bytes: int | None = 1) -> Report:
    work = ClientWork(1, flops, up_bytes)
    return Report(Client(client_id, 0, 3), work, Verdict(client_id, reason, norm=2.5))


def clock_of(options: ClockOptions, **more) -> VirtualClock:
    return VirtualClock(options, lambda client_id, model_type: DEVICE, **more)


def advance(clock: VirtualClock, *reports: Report, round_number: int = 1):
    return clock.advance(reports, round_number=round_number, wanted={})


def test_time_and_energy_add_up_over_rounds():
    clock = clock_of(SYNCHRONOUS)
    assert not clock.holds
    advance(clock, report(0, 2), report(1, 5))
    assert clock.seconds == 7.0
    assert clock.energy_joules == (2 + 4 * 2) + (2 + 4 * 5) + 0.5 * 3  # client 0 waits 3 seconds for client 1
    advance(clock, report(0, 1), round_number=2)
    assert clock.seconds == 10.0 and clock.energy_joules == 33.5 + 6


@pytest.mark.parametrize(
    "options",
    [
        SYNCHRONOUS,
        BUFFERED,
        ClockOptions(mode="deadline", deadline_seconds=6.0),
        ClockOptions(mode="deadline", deadline_seconds=6.0, late="accept"),
        ClockOptions(mode="over_selection", over_select=3.0),
    ],
)
def test_energy_is_what_was_spent_by_a_rounds_end(options):
    """Recomputed from the timeline: late clients, too, work on, and none has spent what it has yet to do."""
    device = replace(DEVICE, idle_watts=0.0)
    clock, lines, found = VirtualClock(options, lambda client_id, model_type: device), [], []
    for number, flops in enumerate([(2, 30, 5), (1, 1, 9), (4, 40, 2)], start=1):
        reports = [report(10 * number + place, each) for place, each in enumerate(flops)]
        clock.advance(reports, round_number=number, wanted={0: 1})
        lines += clock.take_timeline()
        found.append(clock.energy_joules)
        assert found[-1] == sum(joules_by(line, clock.seconds) for line in lines)
        clock.restore(json.loads(json.dumps(clock.state())))
        assert clock.energy_joules == found[-1]
    whole = sum(line["energy_joules"] for line in lines)
    assert found[-1] == whole if options == SYNCHRONOUS else found[-1] < whole


def joules_by(line: dict, now: float) -> float:
    left, joules = now - line["start_seconds"], 0.0
    for part, watts in (("download", 1.0), ("compute", 4.0), ("upload", 1.0)):
        joules += watts * min(left, line[f"{part}_seconds"])
        left = max(0.0, left - line[f"{part}_seconds"])
    return joules


def test_a_clock_goes_on_from_what_it_saved():
    clock = clock_of(BUFFERED)
    advance(clock, report(0, 2), report(1, 5, reason="too_large"))
    assert clock.holds and [flight.client.client_id for flight in clock.in_flight] == [1]
    again = clock_of(BUFFERED)
    again.restore(json.loads(json.dumps(clock.state())))
    assert (again.seconds, again.energy_joules, again.in_flight) == (4.0, clock.energy_joules, clock.in_flight)
    taken = advance(again, report(2, 9), round_number=3)
    assert taken.arrived[0].verdict == Verdict(1, "too_large", norm=2.5) and again.seconds == 7.0
    assert again.staleness(taken.arrived[0], 3) == 1 / math.sqrt(3)


def test_a_clock_goes_on_from_what_an_older_one_saved():
    clock, again = clock_of(BUFFERED), clock_of(BUFFERED)
    advance(clock, report(0, 2), report(1, 5))
    state = clock.state()
    again.restore({**state, "in_flight": [{**flight, "loss": 1.5} for flight in state["in_flight"]]})
    assert again.in_flight == clock.in_flight != ()
    again.restore({name: value for name, value in state.items() if name != "at_work"} | {"energy_joules": 32.0})
    assert again.energy_joules == 32.0  # all at once, as it was counted then
    with pytest.raises(CheckpointError, match="unexpected keyword argument 'gain'"):
        again.restore({**state, "in_flight": [{**flight, "gain": 1.5} for flight in state["in_flight"]]})


@pytest.mark.parametrize(
    "state", [{"seconds": "soon"}, {"at_work": [{"time": {}}]}, {"in_flight": [{"client": 3}]}, {"in_flight": 7}, []]
)
def test_a_state_that_nobody_saved_is_refused(state):
    with pytest.raises(CheckpointError, match="the checkpoint's state of the virtual clock cannot be read"):
        clock_of(BUFFERED).restore(state)


def test_a_client_that_becomes_unavailable_drops_out():
    clock = clock_of(SYNCHRONOUS, leaves_after=lambda client_id, now: 5.0 if client_id else math.inf)
    assert clock.holds
    taken = advance(clock, report(0, 2), report(1, 5), report(2, 0, reason="late", up_bytes=None))
    assert [flight.client.client_id for flight in taken.arrived] == [0] and clock.seconds == 5.0
    assert [(flight.client.client_id, flight.verdict.reason) for flight in taken.lost] == [
        (2, "late"),
        (1, "dropped_out"),
    ]
    assert clock_of(SYNCHRONOUS, batteries=True).holds


def test_while_nobody_is_available_time_passes():
    clock = clock_of(SYNCHRONOUS)
    clock.wait_until(30.0)
    clock.wait_until(20.0)
    assert clock.seconds == 30.0
    advance(clock, report(0, 1))
    assert clock.seconds == 33.0


def test_a_round_tells_its_numbers_and_each_client_its_line():
    clock = clock_of(BUFFERED)
    taken = advance(clock, report(0, 2), report(1, 5))
    metrics = {
        entry["name"]: entry["value"] for entry in clock_metrics(clock, taken, round_number=1, round_seconds=4.0)
    }
    assert metrics == {
        "clock/seconds": 4.0,
        "clock/round_seconds": 4.0,
        "clock/energy": 10.0 + (1 + 4 * 3),
        "clock/arrived": 1,
        "clock/late": 0,
        "clock/in_flight": 1,
        "clock/lost": 0,
        "clock/staleness": 0.0,
        "clock/staleness_max": 0,
    }
    first, second = clock.take_timeline()
    assert (first["client"], first["device"], first["end_seconds"], second["compute_seconds"]) == (0, "phone", 4.0, 5.0)
    assert clock.take_timeline() == []


@pytest.mark.parametrize("options", [SYNCHRONOUS, ClockOptions(mode="over_selection", over_select=1.5)])
def test_without_stale_updates_no_staleness_is_told(options):
    clock = clock_of(options)
    taken = clock.advance([report(0, 1)], round_number=1, wanted={0: 1})
    names = {entry["name"] for entry in clock_metrics(clock, taken, round_number=1, round_seconds=3.0)}
    assert ("clock/arrived" in names) == clock.holds and "clock/staleness" not in names
