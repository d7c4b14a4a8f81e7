"""Numbers as people read them."""

from __future__ import annotations

import pytest

from heterotune.report.quantities import (
    format_bytes,
    format_energy,
    format_number,
    format_seconds,
    format_share,
    time_unit,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (13_722, "13.4 KiB"),
        (500 * 2**20, "500 MiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_shares() -> None:
    assert format_share(53, 10_000) == "0.53 %"
    assert format_share(1, 2) == "50 %"
    assert format_share(1, 0) == "-"


def test_seconds_and_missing_numbers() -> None:
    assert format_seconds(42.04) == "42.0 s"
    assert format_seconds(185.9) == "3 min 05 s"
    assert format_number(None) == "-"
    assert format_number(2.34567) == "2.346"


def test_long_times_and_energies() -> None:
    assert [format_seconds(seconds) for seconds in (3599, 18_425, 1_062_720)] == [
        "59 min 59 s",
        "5 h 07 min",
        "12.3 days",
    ]
    assert [time_unit(seconds)[1] for seconds in (100, 7199, 7200, 172_800)] == ["s", "min", "h", "days"]
    assert [format_energy(joules) for joules in (0, 950, 13_400, 2.5e9, 7e13)] == [
        *("0 J", "950 J", "13.4 kJ", "2.5 GJ", "70 TJ")
    ]
