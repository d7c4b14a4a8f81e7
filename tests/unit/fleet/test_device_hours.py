"""Windows of availability that belong to devices."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from heterotune.config.load import parse_run
from heterotune.fleet.device_hours import DeviceHours, hours_left
from heterotune.fleet.devices import make_devices

NIGHT, OFFICE = ((22.0, 6.0),), ((9.0, 12.0), (12.0, 17.0))


@pytest.mark.parametrize(
    ("windows", "hour", "left"),
    [
        ((), 3.0, math.inf),
        (((0.0, 24.0),), 3.0, math.inf),
        (((0.0, 12.0), (12.0, 24.0)), 13.0, math.inf),
        (NIGHT, 23.0, 7.0),
        (NIGHT, 0.0, 6.0),
        (NIGHT, 6.0, 0.0),
        (NIGHT, 21.5, 0.0),
        (OFFICE, 10.0, 7.0),
        (OFFICE, 17.0, 0.0),
        (((9.0, 12.0), (10.0, 11.0)), 10.5, 1.5),
        (((20.0, 24.0), (0.0, 2.0)), 23.5, 2.5),
    ],
)
def test_windows_meet_overlap_and_go_over_midnight(windows, hour, left):
    assert hours_left(windows, hour) == left


def hours_of(tmp_path=None):
    figures = {"flops_per_second": 1e9, "memory_gib": 1.0, "down_mbit_per_second": 1.0, "up_mbit_per_second": 1.0}
    profiles = {
        "phone": {**figures, "available_hours": [list(window) for window in NIGHT]},
        "desktop": {**figures, "available_hours": [list(window) for window in OFFICE]},
        "server": figures,
    }
    types = tuple(SimpleNamespace(name=name, index=place, num_clients=50) for place, name in enumerate("ab"))
    source = {"assign": {"a": {"phone": 0.5, "desktop": 0.5}, "b": "server"}}
    if tmp_path is not None:
        path = tmp_path / "trace.csv"
        path.write_text("profile\n" + "phone\n" * 50 + "server\n" * 50)
        source = {"trace": str(path)}
    run = {
        "name": "trial",
        "rounds": 1,
        "fleet": [{"name": each.name, "model": "embedded:small", "clients": 50} for each in types],
        "data": {"source": "embedded:stdlib"},
        "devices": {"profiles": profiles, **source},
    }
    devices = make_devices(parse_run(run), types)
    return DeviceHours(devices, types), devices


@pytest.mark.parametrize("day", [0, 5])
def test_clients_come_and_go_with_their_devices(day):
    hours, devices = hours_of()
    ids = np.array([70, *range(50), 51])
    names = np.array([devices.of(client, int(client >= 50)).name for client in ids.tolist()])
    at_ten = day * 86_400 + 10 * 3600.0
    assert set(names[hours.at(ids, at_ten)]) == {"desktop", "server"}
    assert set(names[hours.at(ids, at_ten + 13 * 3600)]) == {"phone", "server"}
    until = hours.until(ids, at_ten)
    assert set(until[names == "desktop"]) == {day * 86_400 + 17 * 3600.0}
    assert set(until[names == "server"]) == {math.inf}
    assert hours.period_seconds == 86_400


def test_a_trace_names_devices_and_so_hours(tmp_path):
    hours, _ = hours_of(tmp_path)
    assert hours.at(np.array([0, 49, 50, 99]), 10 * 3600.0).tolist() == [False, False, True, True]
