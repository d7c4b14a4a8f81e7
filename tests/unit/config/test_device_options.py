"""Section `devices`: how clients' hardware is written down, and what is said of mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heterotune.config.device_file import read_profiles, with_profiles
from heterotune.config.load import dump_run, load_run, parse_run
from heterotune.errors import ConfigError

PHONE = {"flops_per_second": 1e11, "memory_gib": 2.0, "down_mbit_per_second": 50.0, "up_mbit_per_second": 10.0}
SHIPPED = Path(__file__).parents[3] / "launch" / "devices.yaml"
ASSIGN = {"small": "phone", "large": {"phone": 0.6, "tablet": 0.4}, "large-2q": {"profile": "phone"}}
FILE = """
profiles:
  phone: {flops_per_second: 3.0e+11, memory_gib: 2.0, down_mbit_per_second: 1.0, up_mbit_per_second: 1.0}
  tablet: {flops_per_second: 4.0e+11, memory_gib: 4.0, down_mbit_per_second: 1.0, up_mbit_per_second: 1.0}
  unused: {flops_per_second: 5.0e+11, memory_gib: 4.0, down_mbit_per_second: 1.0, up_mbit_per_second: 1.0}
"""


def problems_of(run, **devices) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_run({**run, "devices": devices})
    return str(caught.value)


def test_nothing_is_said_of_devices_by_default(run):
    assert not parse_run(run).devices.are_given


def test_a_profile_and_a_mixture_have_a_short_form(run, tmp_path):
    config = parse_run({**run, "devices": {"profiles": {"phone": PHONE}, "assign": ASSIGN}})
    shares = {name: assigned.shares for name, assigned in config.devices.assign.items()}
    assert shares == {"small": {"phone": 1.0}, "large": {"phone": 0.6, "tablet": 0.4}, "large-2q": {"phone": 1.0}}
    path = tmp_path / "run.yaml"
    path.write_text(dump_run(config))
    assert load_run(path) == config


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ({"assign": {"small": "phone"}}, r"devices\.assign\.large is missing\. Give each model type"),
        ({"assign": {**ASSIGN, "lage": "phone"}}, r"devices\.assign\.lage is not in the fleet\. Did you mean large\?"),
        ({"assign": {**ASSIGN, "large": {"phone": 0.6, "tablet": 0.3}}}, r"mixture add up to 0\.9, not 1"),
        ({"assign": {**ASSIGN, "large": {"flops_spread": 0.5}}}, "needs either profile or mixture"),
        ({"assign": {**ASSIGN, "large": {"profile": "phone", "flops_spread": -1.0}}}, "-1.0 is too small"),
        ({"assign": {**ASSIGN, "large": {"profile": "phone", "spread": 1.0}}}, "spread is not a known key"),
        ({"assign": ASSIGN, "trace": "trace.csv"}, "assign and trace both say which devices clients have"),
        ({"profiles": {"phone": PHONE}}, "has profiles that no client gets. Add assign or trace"),
        ({"trace_sha256": "ab" * 32}, "trace_sha256 is given without trace"),
        ({"assign": ASSIGN, "profiles": {"phone": {**PHONE, "memory": 1.0}}}, "Did you mean memory_gib"),
        ({"assign": ASSIGN, "profiles": {"phone": {**PHONE, "memory_gib": 0.0}}}, r"0\.0 is too small"),
        ({"assign": ASSIGN, "profiles": {"phone": {**PHONE, "memory_gib": 1e300}}}, r"1e\+300 is too large"),
        ({"assign": {**ASSIGN, "large": {"profile": "phone", "flops_spread": 300.0}}}, "300.0 is too large"),
        ({"assign": {**ASSIGN, "large": {"profile": "phone", "bandwidth_spread": 6.0}}}, "6.0 is too large"),
        ({"assign": ASSIGN, "profiles": {"phone": {**PHONE, "available_hours": [[3.0, 3.0]]}}}, "ends as it begins"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(run, devices, told):
    assert re.search(told, problems_of(run, **devices))


def test_profiles_come_from_a_file_and_the_run_file_goes_before_it(run, tmp_path):
    path = tmp_path / "devices.yaml"
    path.write_text(FILE)
    config = parse_run({**run, "devices": {"file": str(path), "profiles": {"phone": PHONE}, "assign": ASSIGN}})
    found = with_profiles(config.devices)
    assert found.file is None
    found_flops = {name: each.flops_per_second for name, each in found.profiles.items()}
    assert found_flops == {"phone": 1e11, "tablet": 4e11, "unused": 5e11}


def test_the_shipped_file_goes_by_its_name_and_others_by_a_path_that_may_begin_at_home(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(FILE)
    for file, names in (("devices", {"tablet", "laptop"}), ("~/mine.yaml", {"phone", "tablet"})):
        assign = dict(zip(ASSIGN, [*names, "tablet"], strict=True))
        config = parse_run({**run, "devices": {"file": file, "assign": assign}})
        assert names <= with_profiles(config.devices).profiles.keys()


def test_an_assigned_profile_must_be_somewhere(run):
    config = parse_run({**run, "devices": {"profiles": {"phone": PHONE}, "assign": ASSIGN}})
    with pytest.raises(ConfigError, match=r"devices\.assign\.large = tablet is not in devices\.profiles"):
        with_profiles(config.devices)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot be read \(No such file.* or write devices for the classes that heterotune ships"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"- 1", "a file of devices is a mapping"),
        (b"profiles: {phone: {memory_gib: -1.0}}", r"memory_gib = -1\.0 is too small"),
        (b"profile: {}", r"profile is not a known key\. Did you mean profiles\?"),
    ],
)
def test_a_broken_file_is_refused(content, told, tmp_path: Path):
    path = tmp_path / "devices.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        read_profiles(path)


def test_the_shipped_classes_of_devices_can_be_read():
    """Every one has all figures: a default would count nothing without a word."""
    profiles = read_profiles(SHIPPED)
    assert list(profiles) == ["phone-5g", "phone-mobile", "tablet", "laptop", "jetson", "workstation"]
    figures = {"latency_seconds", "compute_watts", "radio_watts", "idle_watts", "dtype"}
    assert all(figures <= profile.model_fields_set for profile in profiles.values())
    assert {name for name, profile in profiles.items() if profile.battery_wh is None} == {"jetson", "workstation"}
