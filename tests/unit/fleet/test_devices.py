"""Which device a client has: drawn from the run's seed and its number, or read from a trace."""

from __future__ import annotations

import os
import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from heterotune.config.load import parse_run
from heterotune.errors import ConfigError
from heterotune.fleet.devices import Device, make_devices

PROFILES = {
    "phone": {
        "flops_per_second": 1e11,
        "memory_gib": 2.0,
        "down_mbit_per_second": 80.0,
        "up_mbit_per_second": 8.0,
        "battery_wh": 1.0,
        "dtype": "fp16",
    },
    "laptop": {"flops_per_second": 1e12, "memory_gib": 8.0, "down_mbit_per_second": 200.0, "up_mbit_per_second": 40.0},
}
ALL_COLUMNS = "flops_per_second,memory_gib,down_mbit_per_second,up_mbit_per_second\n"
TYPES = tuple(SimpleNamespace(name=name, index=place) for place, name in enumerate(("small", "large")))


def devices_of(seed: int = 0, clients: int = 2, **section):
    run = {
        "name": "trial",
        "seed": seed,
        "rounds": 1,
        "fleet": [{"name": each.name, "model": "embedded:small", "clients": clients} for each in TYPES],
        "data": {"source": "embedded:stdlib"},
        "devices": {"profiles": PROFILES, **section},
    }
    return make_devices(parse_run(run), TYPES)


def test_a_run_that_says_nothing_has_no_devices():
    assert devices_of(profiles={}) is None


def test_a_profile_in_the_engines_units():
    device = devices_of(assign={"small": "phone", "large": "laptop"}).of(0, 0)
    assert device == Device("phone", 1e11, 2 << 30, 1e7, 1e6, battery_joules=3600.0, dtype="fp16")


def test_it_is_known_whether_a_battery_may_get_empty(tmp_path):
    assert devices_of(assign={"small": {"phone": 0.1, "laptop": 0.9}, "large": "laptop"}).have_batteries
    assert not devices_of(assign={"small": "laptop", "large": "laptop"}).have_batteries
    (tmp_path / "plain.csv").write_text(ALL_COLUMNS + "1e9,4,10,5\n" * 4)
    (tmp_path / "drained.csv").write_text(f"battery_wh,{ALL_COLUMNS}" + "2,1e9,4,10,5\n" * 4)
    assert not devices_of(profiles={}, trace=str(tmp_path / "plain.csv")).have_batteries
    assert devices_of(profiles={}, trace=str(tmp_path / "drained.csv")).have_batteries
    (tmp_path / "laptops.csv").write_text("profile\n" + "laptop\n" * 4 + "phone\n")
    (tmp_path / "empty.csv").write_text("profile,battery_wh\n" + "laptop,\n" * 4)
    assert not devices_of(trace=str(tmp_path / "laptops.csv")).have_batteries  # rows beyond the fleet's clients
    assert not devices_of(trace=str(tmp_path / "empty.csv")).have_batteries


def test_a_mixture_is_drawn_by_client_whatever_the_order():
    assign = {"small": {"phone": 0.75, "laptop": 0.25}, "large": "laptop"}
    devices, again, other = devices_of(assign=assign), devices_of(assign=assign), devices_of(seed=1, assign=assign)
    names = [devices.of(client, 0).name for client in range(400)]
    assert names == [again.of(client, 0).name for client in reversed(range(400))][::-1]
    assert names != [other.of(client, 0).name for client in range(400)]
    assert names.count("phone") / 400 == pytest.approx(0.75, abs=0.06)
    assert devices.of(10**9, 0).name in PROFILES  # nothing is kept per client


@pytest.mark.parametrize("shares", [{"phone": 0.75, "laptop": 0.25}, {"laptop": 1.0}])
def test_places_of_many_clients_are_those_of_their_devices(shares):
    devices, ids = devices_of(assign={"small": shares, "large": "laptop"}), np.array([7, 10**9, *range(200)])
    names = [devices.profiles(0)[place].name for place in devices.places(ids, 0)]
    assert names == [devices.of(client, 0).name for client in ids.tolist()]


def test_spreads_are_lognormal_around_the_profile():
    assign = {"small": {"profile": "phone", "flops_spread": 0.5, "bandwidth_spread": 0.25}, "large": "laptop"}
    drawn = [devices_of(assign=assign).of(client, 0) for client in range(400)]
    speeds = sorted(each.flops_per_second for each in drawn)
    assert statistics.median(speeds) == pytest.approx(1e11, rel=0.15)
    assert speeds[63] == pytest.approx(1e11 * 2.718**-0.5, rel=0.15)  # one standard deviation down
    assert all(each.down_bytes_per_second == pytest.approx(10 * each.up_bytes_per_second) for each in drawn)
    assert {each.memory_bytes for each in drawn} == {2 << 30}


def test_the_least_memory_that_a_client_may_get():
    devices = devices_of(assign={"small": {"phone": 0.5, "laptop": 0.5}, "large": "laptop"})
    assert {dtype: device.name for dtype, device in devices.smallest(0, range(2)).items()} == {
        "fp16": "phone",
        "bf16": "laptop",
    }


def test_energy_is_watts_times_seconds():
    device = Device("phone", 1.0, 1, 1.0, 1.0, 0.0, 4.0, 2.0, 0.5)
    assert device.energy_joules(compute_seconds=10.0, radio_seconds=5.0, idle_seconds=2.0) == 51.0


def trace_of(tmp_path, text: str, **section):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return devices_of(trace=str(path), **section)


def test_a_trace_changes_what_a_profile_says(tmp_path):
    text = "profile,memory_gib,battery_wh\nphone,,\nlaptop,3,5\nphone,1.5,\n\nlaptop,,\nphone,0.1,\n"
    devices = trace_of(tmp_path, text)
    found = [devices.of(client, 0) for client in range(4)]
    assert [each.name for each in found] == ["phone", "laptop", "phone", "laptop"]
    assert [each.memory_bytes / (1 << 30) for each in found] == [2, 3, 1.5, 8]
    assert [each.battery_joules for each in found] == [3600.0, 18000.0, 3600.0, None]
    assert {key: each.memory_bytes / (1 << 30) for key, each in devices.smallest(1, range(2, 4)).items()} == {
        "fp16": 1.5,
        "bf16": 8,
    }


def test_a_trace_without_profiles_says_all(tmp_path):
    rows = "1e9,1,8,8,0.5\n" * 4
    header = "flops_per_second,memory_gib,down_mbit_per_second,up_mbit_per_second,latency_seconds\n"
    device = trace_of(tmp_path, header + rows, profiles={}).of(3, 1)
    assert device == Device("trace", 1e9, 1 << 30, 1e6, 1e6, 0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"line 1: no column flops_per_second, memory_gib.*, and no column profile"),
        ("profile,memory\n", r"line 1: 'memory' is no column of a trace\. Did you mean memory_gib\?"),
        ("profile,profile\n", "line 1: the column profile is there twice"),
        ("profile\nphone\n", "1 rows for the fleet's 4 clients"),
        ("profile\nphone\nfone\nphone\nphone\n", r"line 3: profile = 'fone' is not known\. Did you mean phone\?"),
        ("profile,memory_gib\nphone,1\nphone,-1\nphone,1\nphone,1\n", "line 3: memory_gib = -1 is too small"),
        ("profile,idle_watts\nphone,1\nphone,-1\nphone,1\nphone,1\n", "line 3: idle_watts = -1 is too small"),
        ("profile,memory_gib\n" + "phone,1e300\n" * 4, "line 2: memory_gib = 1e.300 is too large. Give at most 1e.06"),
        ("profile,memory_gib\nphone,1\nphone,lots\n", "line 3: memory_gib = 'lots' is no finite number"),
        ("profile,memory_gib\nphone,nan\n", "line 2: memory_gib = 'nan' is no finite number"),
        ("profile,memory_gib\nphone\n", "line 2: 1 cells under 2 columns"),
        (ALL_COLUMNS + "1,,1,1\n" * 4, "line 2: memory_gib is empty, and there is no profile"),
        ("profile\n\udcff\n", "not a CSV file in UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_trace_is_refused_with_the_line(text, told, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=told):
        devices_of(trace=str(path))


def test_a_trace_that_is_missing_or_another_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no .csv file is there"):
        devices_of(trace=str(tmp_path / "none.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="no .csv file is there"):
        devices_of(trace=str(tmp_path / "pipe.csv"))
    with pytest.raises(ConfigError, match="Bring that file back, or drop trace_sha256"):
        trace_of(tmp_path, "profile\n", trace_sha256="ab" * 32)
