"""A round's draw in virtual time: it waits for clients to be available, and time passes for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from heterotune.aggregation.quarantine import Verdict
from heterotune.config.load import parse_run
from heterotune.fleet.clients import make_population
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.virtual_time.arrivals import Flight
from heterotune.virtual_time.round_clock import RoundClock
from heterotune.virtual_time.virtual_clock import VirtualClock

FLEET = make_population([8], [3] * 8)
BUFFERED = {"mode": "buffered", "concurrency": 4, "buffer": 2}


def round_clock(**clock: object) -> tuple[RoundClock, VirtualClock]:
    """All clients are available in the first half of every 100 seconds."""
    run = {
        "name": "tiny",
        "rounds": 4,
        "fleet": [{"name": "small", "model": "embedded:small", "clients": 8}],
        "data": {"source": "embedded:stdlib"},
        "availability": {"model": "diurnal", "share": 0.5, "start_spread": 0.0, "period_seconds": 100.0},
        "devices": {
            "profiles": {
                "phone": {
                    "flops_per_second": 1e9,
                    "memory_gib": 4,
                    "down_mbit_per_second": 1,
                    "up_mbit_per_second": 1,
                }
            },
            "assign": {"small": {"profile": "phone"}},
        },
        "clock": clock,
    }
    config = parse_run({**run, **({} if clock["mode"] == "buffered" else {"cohort": {"clients": 3}})})
    selection = CohortSelection(FLEET, config.cohort, config.availability, run_seed=1)
    time = VirtualClock(config.clock, lambda client_id, place: pytest.fail(), selection.leaves_after)
    return RoundClock(config, FLEET, SimpleNamespace(run_folder=None), selection, time, None), time


@pytest.mark.parametrize(("begin", "drawn"), [(20.0, 20.0), (70.0, 100.0)])
def test_a_round_begins_when_enough_are_available(begin, drawn):
    clock, time = round_clock(mode="synchronous")
    time.wait_until(begin)
    assert len(clock.draw(1)) == 3 and time.seconds == pytest.approx(drawn)


def test_under_buffered_nobody_waits_while_others_are_at_work():
    clock, time = round_clock(**BUFFERED)
    time.wait_until(70.0)
    time.in_flight = tuple(
        Flight(client, 1, 40.0, 200.0, False, Verdict(client.client_id)) for client in FLEET.clients([1, 5])
    )
    assert clock.draw(2) == () and time.seconds == 70.0
    time.wait_until(110.0)
    clients = [client.client_id for client in clock.draw(2)]
    assert len(clients) == 2 and not {1, 5} & set(clients) and time.seconds == 110.0
    time.in_flight = ()
    time.wait_until(160.0)
    assert len(clock.draw(3)) == 4 and time.seconds == pytest.approx(200.0)
