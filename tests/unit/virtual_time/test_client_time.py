"""What a client's part in a round takes: the formula with numbers that divide."""

from __future__ import annotations

import pytest

from heterotune.fleet.devices import Device
from heterotune.virtual_time.client_time import ClientWork, client_time

DEVICE = Device("phone", 1000.0, 1, 100.0, 50.0, 0.5, compute_watts=4.0, radio_watts=1.0, idle_watts=9.0)
WORK = ClientWork(down_bytes=200, flops=8000, up_bytes=150)


def parts(time):
    return time.download_seconds, time.compute_seconds, time.upload_seconds


def test_seconds_are_bytes_and_operations_by_their_rates():
    time = client_time(DEVICE, WORK)
    assert parts(time) == (0.5 + 2.0, 8.0, 3.0) and time.seconds == 13.5 and not time.is_lost
    assert time.energy_joules == 4.0 * 8.0 + 1.0 * (2.5 + 3.0)


def test_a_client_that_drops_out_pays_for_what_it_did():
    time = client_time(DEVICE, ClientWork(200, 2000, None))
    assert parts(time) == (2.5, 2.0, 0.0) and time.is_lost
    assert time.energy_joules == 2.5 + 8.0


@pytest.mark.parametrize(
    ("most_seconds", "expected"),
    [(13.5, (2.5, 8.0, 3.0)), (11.0, (2.5, 8.0, 0.5)), (4.0, (2.5, 1.5, 0.0)), (1.0, (1.0, 0.0, 0.0))],
)
def test_a_window_of_availability_ends_the_work(most_seconds, expected):
    time = client_time(DEVICE, WORK, most_seconds=most_seconds)
    assert parts(time) == expected and time.is_lost == (most_seconds < 13.5)


@pytest.mark.parametrize(
    ("battery", "expected"), [(37.5, (2.5, 8.0, 3.0)), (35.5, (2.5, 8.0, 1.0)), (6.5, (2.5, 1.0, 0))]
)
def test_an_empty_battery_ends_the_work(battery, expected):
    device = Device("phone", 1000.0, 1, 100.0, 50.0, 0.5, compute_watts=4.0, radio_watts=1.0, battery_joules=battery)
    time = client_time(device, WORK)
    assert parts(time) == expected and time.energy_joules == battery
    assert time.is_lost == (battery < 37.5)
