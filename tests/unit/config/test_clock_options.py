"""The section about virtual time: what a mode needs, and what it excludes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heterotune.config.clock_options import ClockOptions
from heterotune.config.load import parse_run
from heterotune.errors import ConfigError

DEVICES = {
    "profiles": {
        "phone": {"flops_per_second": 1e9, "memory_gib": 4, "down_mbit_per_second": 10, "up_mbit_per_second": 5}
    },
    "assign": {"small": "phone", "large": "phone", "large-2q": "phone"},
}
BUFFERED = {"mode": "buffered", "concurrency": 6, "buffer": 2}
ACCEPT = {"mode": "deadline", "deadline_seconds": 10.0, "late": "accept"}
OVER = {"mode": "over_selection", "over_select": 1.3}
NOISE = {"mechanism": "gaussian", "noise_multiplier": 1.0, "clip_norm": 1.0}


def test_by_default_no_time_passes():
    options = ClockOptions()
    assert not options.is_on and not options.takes_stale
    assert ClockOptions(**BUFFERED).takes_stale and ClockOptions(**ACCEPT).takes_stale
    assert not ClockOptions(**{**ACCEPT, "late": "drop"}).takes_stale


def test_old_updates_weigh_less():
    assert [ClockOptions().weight_of(age) for age in (0, 3, 15)] == [1.0, 0.5, 0.25]
    assert ClockOptions(staleness_exponent=1.0).weight_of(3) == 0.25
    assert ClockOptions(staleness="constant").weight_of(99) == 1.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mode": "deadline"}, "mode = deadline needs deadline_seconds. Give it, or choose another mode."),
        ({"mode": "buffered", "buffer": 2}, "mode = buffered needs concurrency."),
        ({"over_select": 1.3}, "over_select = 1.3 does nothing under mode = none. Drop it, or choose mode: over_sel"),
        ({**OVER, "buffer": 2}, "buffer = 2 does nothing under mode = over_selection. Drop it, or choose mode: buff"),
        ({**BUFFERED, "late": "accept"}, "late = accept does nothing under mode = buffered."),
        ({**BUFFERED, "buffer": 7}, "buffer = 7 is more than concurrency = 6, so that it never fills."),
        ({"mode": "over_selection", "over_select": 0.9}, "greater than or equal to 1"),
        ({"staleness_exponent": -1.0}, "greater than or equal to 0"),
    ],
)
def test_a_mode_has_what_it_needs_and_nothing_else(given, told):
    with pytest.raises(ValidationError, match=told):
        ClockOptions(**given)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"clock": OVER, "devices": {}}, "clock.mode = over_selection needs devices: nothing says how fast clients"),
        (
            {"clock": OVER, "misbehaviour": {"slow": {"deadline_seconds": 3.0}}},
            "misbehaviour.slow gives clients other seconds than clock.mode = over_selection",
        ),
        ({"clock": OVER, "strategy": "centralised"}, "counts clients' seconds, and strategy centralised trains in one"),
        ({"clock": {**BUFFERED, "concurrency": 13}}, "clock.concurrency = 13 is more than the fleet's 12 clients."),
        ({"clock": OVER, "secure_aggregation": {"enabled": True}}, "and clock.mode = over_selection takes a part of"),
        ({"clock": OVER, "privacy": NOISE}, "drawn by chance alone, and clock.mode = over_selection is not."),
        ({"clock": ACCEPT, "privacy": NOISE}, "and clock.mode = deadline with late = accept is not."),
        ({"clock": BUFFERED, "compare_with": ["flora"]}, "strategy flora combines single updates that began from one"),
        (
            {"clock": ACCEPT, "strategy": "scaffold"},
            "with late = accept takes updates of older rounds, and strategy sc",
        ),
        ({"clock": BUFFERED, "strategy": "fedrolex"}, "strategy fedrolex lets the window that clients train roll"),
        ({"clock": OVER, "compare_with": ["scaffold"]}, "over_selection drops updates, and strategy scaffold keeps"),
        ({"clock": BUFFERED, "strategy": "fedproto"}, "strategy fedproto replaces each class's mean feature"),
        ({"clock": BUFFERED, "heterotune": {"realign_every": 2}}, "strategy heterotune aligns its head anew .realign_"),
        ({"clock": BUFFERED, "aggregate": {"rule": "median"}}, "and aggregate.rule = median has no weights."),
        ({"clock": BUFFERED, "cohort": {"clients": 4}}, "cohort.clients = 4 does nothing under clock.mode = buffered."),
        ({"clock": BUFFERED, "cohort": {"fraction": 0.5}}, "cohort.fraction = 0.5 does nothing under"),
        ({"clock": BUFFERED, "cohort": {"min_clients": 3}}, "cohort.min_clients = 3 is more than clock.buffer = 2, so"),
    ],
)
def test_what_a_mode_excludes(run, sections, told):
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "devices": DEVICES, **sections})


@pytest.mark.parametrize(
    "sections",
    [
        {"clock": {"mode": "synchronous"}, "secure_aggregation": {"enabled": True}},
        {"clock": {**ACCEPT, "late": "drop"}, "privacy": NOISE},
        {"clock": OVER, "aggregate": {"rule": "median"}, "compare_with": ["fedprox"]},
        {"clock": OVER, "heterotune": {"realign_every": 2}},
        {"clock": BUFFERED, "strategy": "fedadam", "aggregate": {"rule": "norm_clipping", "max_norm": 1.0}},
    ],
)
def test_what_fits_together(run, sections):
    assert parse_run({**run, "devices": DEVICES, **sections}).clock.is_on
