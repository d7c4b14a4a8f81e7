"""Steady growth is told, noise and single steps are not."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.profiling.leaks import find_leaks, is_leaking, slope

MIB = 2**20


def lines(
    peaks_mib: list[float], *, phase: str = "train", kind: str = "host_resident", mpi_rank: int = 0
) -> list[dict]:
    return [
        {"round": number, "mpi_rank": mpi_rank, "phase": phase, "kind": kind, "peak_bytes": int(peak * MIB)}
        for number, peak in enumerate(peaks_mib, start=1)
    ]


def test_a_leak_is_told_with_rank_phase_and_slope() -> None:
    noise = np.random.default_rng(1).normal(0, 2, size=12)
    records = lines([500 + 8 * number + noise[number] for number in range(12)], mpi_rank=3)
    records += lines([500.0] * 12, phase="encode")
    (leak,) = find_leaks(records)
    assert (leak.mpi_rank, leak.phase, leak.kind) == (3, "train", "host_resident")
    assert leak.bytes_per_round / MIB == pytest.approx(8, abs=0.5)
    assert "MPI rank 3 in phase train grows by 8." in str(leak)
    assert leak.as_record()["bytes_per_round"] == leak.bytes_per_round


@pytest.mark.parametrize(
    ("why", "peaks"),
    [
        ("flat", [500.0] * 12),
        ("grows only while it warms up", [300.0, 400.0] + [500.0] * 10),
        ("one step", [500.0] * 7 + [560.0] * 5),
        ("under a MiB a round", [500 + 0.9 * number for number in range(12)]),
        ("too few rounds", [500 + 50 * number for number in range(7)]),
        ("up and down", [500, 500, 560, 500, 580, 510, 570, 500, 590, 505, 575, 520]),
    ],
)
def test_no_alarm(why: str, peaks: list[float]) -> None:
    assert find_leaks(lines(peaks)) == [], why


def test_noise_alone_raises_an_alarm_in_less_than_one_series_of_a_hundred() -> None:
    drawn = np.random.default_rng(7).normal(500 * MIB, 30 * MIB, size=(300, 10))
    assert sum(is_leaking(list(enumerate(row.astype(int).tolist()))) for row in drawn) <= 3


def test_memory_that_is_no_single_ranks_peak_is_left_out() -> None:
    assert find_leaks(lines([500.0 + 50 * number for number in range(12)], kind="node_pss")) == []


def test_slope_and_error_are_those_of_least_squares() -> None:
    points = [(1, 1), (2, 3), (3, 2), (4, 6)]
    found, ((expected, _), covariance) = slope(points), np.polyfit(*zip(*points, strict=True), 1, cov=True)
    assert found.bytes_per_round == pytest.approx(expected)
    assert found.error == pytest.approx(float(np.sqrt(covariance[0, 0])))
    assert slope(points[:2]).error == 0.0
