"""Windows of availability that belong to devices."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from heterotune.config.cohort_options import CohortConfig
from heterotune.config.load import parse_run
from heterotune.errors import ConfigError
from heterotune.fleet.clients import make_population
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.fleet.device_hours import DeviceHours, device_hours, hours_left, hours_problems
from heterotune.fleet.devices import make_devices, with_used_profiles

TYPES = tuple(SimpleNamespace(name=name, index=place, num_clients=50) for place, name in enumerate("ab"))
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


def run_of(types, source, model="devices"):
    figures = {"flops_per_second": 1e9, "memory_gib": 1.0, "down_mbit_per_second": 1.0, "up_mbit_per_second": 1.0}
    profiles = {
        "phone": {**figures, "available_hours": [list(window) for window in NIGHT]},
        "desktop": {**figures, "available_hours": [list(window) for window in OFFICE]},
        "server": figures,
    }
    run = {
        "name": "trial",
        "rounds": 1,
        "fleet": [{"name": each.name, "model": "embedded:small", "clients": 50} for each in types],
        "data": {"source": "embedded:stdlib"},
        "availability": {"model": model},
        "devices": {"profiles": profiles, **source},
    }
    return parse_run(run)


def hours_of(tmp_path=None):
    source = {"assign": {"a": {"phone": 0.5, "desktop": 0.5}, "b": "server"}}
    if tmp_path is not None:
        path = tmp_path / "trace.csv"
        path.write_text("profile\n" + "phone\n" * 50 + "server\n" * 50)
        source = {"trace": str(path)}
    config = run_of(TYPES, source)
    return device_hours(config, TYPES), make_devices(config, TYPES)


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


class CountedDevices:
    """Devices that note for which clients they were asked."""

    def __init__(self, devices):
        self.profiles, self._devices, self.asked = devices.profiles, devices, []

    def places(self, client_ids, model_type):
        self.asked.append((model_type, len(client_ids)))
        return self._devices.places(client_ids, model_type)


def test_profiles_are_drawn_once_and_only_where_hours_differ():
    """At 10^6 clients a draw for all takes 2 seconds, and a server may look 96 times before a round."""
    devices = CountedDevices(hours_of()[1])
    hours = DeviceHours(devices, TYPES)
    ids = np.arange(100)
    assert hours.at(ids, 7 * 3600.0).tolist() == [False] * 50 + [True] * 50 and devices.asked == []
    for hour in (10, 11, 12, 23):
        assert 0 < hours.at(ids, hour * 3600.0)[:50].sum() < 50
        assert hours.until(ids[:1], hour * 3600.0) > 0.0
    assert devices.asked == [(0, 50)]


def test_a_trace_names_devices_and_so_hours(tmp_path):
    hours, _ = hours_of(tmp_path)
    assert hours.at(np.array([0, 49, 50, 99]), 10 * 3600.0).tolist() == [False, False, True, True]


def test_cohorts_are_drawn_among_devices_that_are_there():
    hours, devices = hours_of()
    config = run_of(TYPES, {"assign": {"a": "phone", "b": "server"}})
    population = make_population([50, 50], [10] * 100)
    selection = CohortSelection(population, CohortConfig(clients=20), config.availability, run_seed=0, hours=hours)
    cohort = selection.draw(1, seconds=10 * 3600.0)
    names = {devices.of(client.client_id, client.model_type).name for client in cohort}
    assert len(cohort) == 20 and names == {"desktop", "server"}
    of_phone = next(client for client in range(50) if devices.of(client, 0).name == "phone")
    assert selection.leaves_after(of_phone, 23 * 3600.0) == 7 * 3600.0


def test_hours_count_only_where_the_run_says_so(tmp_path):
    def problems(config):
        used = with_used_profiles(config.devices, make_devices(config, TYPES))
        return hours_problems(config.model_copy(update={"devices": used}))

    everywhere = {"assign": {"a": "phone", "b": "server"}}
    assert device_hours(run_of(TYPES, everywhere, "always"), TYPES) is None
    told = []
    for config in (run_of(TYPES, everywhere, "always"), run_of(TYPES, {"assign": {"a": "server", "b": "server"}})):
        told += problems(config)
    assert told[0].startswith("devices.profiles.phone.available_hours does nothing under availability.model = always")
    assert told[1].startswith("availability.model = devices, and no profile that clients have has available_hours")
    assert problems(run_of(TYPES, everywhere)) == []
    (tmp_path / "trace.csv").write_text("profile\n" + "server\n" * 100 + "phone\n")
    servers = {"trace": str(tmp_path / "trace.csv")}
    assert problems(run_of(TYPES, servers)) == told[1:] and problems(run_of(TYPES, servers, "always")) == []


def test_hours_need_devices_and_repeat_every_day():
    run = run_of(TYPES, {"assign": {"a": "phone", "b": "server"}}).model_dump(mode="json")
    with pytest.raises(ConfigError, match="availability.model = devices, and no client has a device. Add devices"):
        parse_run({**run, "devices": {}})
    with pytest.raises(ConfigError, match="period_seconds = 60 does nothing under model = devices"):
        parse_run({**run, "availability": {"model": "devices", "period_seconds": 60.0}})
