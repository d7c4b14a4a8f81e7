"""The profile's table, CSV and plot show what was measured."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rich.console import Console

from heterotune.profiling.leaks import Leak
from heterotune.profiling.run_profile import PhasePeak, RunProfile
from heterotune.report.memory_plot import plot_peaks
from heterotune.report.memory_profile import profile_report, shown_peaks, write_csv
from heterotune.report.terminal import PLAIN_WIDTH

MIB = 2**20
TRAIN = PhasePeak(1, "train", "host_resident", 3, 500 * MIB, 400 * MIB, {"runtime": 300 * MIB, "data": 150 * MIB})
OTHERS = (PhasePeak(0, "round", "node_pss", 2, 900 * MIB, None, {}), PhasePeak(1, "load", "nvme", 0, 7 * MIB, None, {}))


def profile(*peaks: PhasePeak, leaks: tuple[Leak, ...] = (), missing: tuple[str, ...] = ()) -> RunProfile:
    return RunProfile("", Path("runs/demo"), peaks, leaks, missing)


def shown(profile: RunProfile) -> str:
    stream = io.StringIO()
    for part in profile_report(profile):
        Console(file=stream, width=PLAIN_WIDTH).print(part)
    return stream.getvalue()


def test_peak_estimate_difference_components_and_the_rest() -> None:
    text = shown(profile(TRAIN, *OTHERS))
    (row,) = [line.split() for line in text.splitlines() if line.strip().startswith("train")]
    assert row == ["train", "1", "3", "500.0", "400.0", "+25", "%", "300.0", "150.0", "10.0", "%"]
    assert "node_pss" in text and "900 MiB" in text and "nvme" in text


def test_without_a_plan_and_without_components_there_are_no_such_columns() -> None:
    text = shown(profile(PhasePeak(0, "train", "host_resident", 3, MIB, None, {})))
    assert "estimate" not in text and "runtime" not in text
    assert [line.split() for line in text.splitlines() if "train" in line] == [["train", "0", "3", "1.0", "-"]]


def test_leaks_and_what_is_missing_are_told() -> None:
    leak = Leak(2, "train", "host_resident", 5 * MIB, MIB)
    text = shown(profile(TRAIN, leaks=(leak,), missing=("Rounds 3 to 8 are missing.",)))
    assert str(leak) in " ".join(text.split()) and "missing: Rounds 3 to 8 are missing." in text


def test_of_many_ranks_the_highest_and_lowest_are_shown_and_all_are_in_the_csv() -> None:
    peaks = [PhasePeak(rank, "train", "host_resident", 1, (100 + rank) * MIB, None, {}) for rank in range(20)]
    assert [peak.mpi_rank for peak in shown_peaks(peaks)] == [19, 0]
    assert shown_peaks(peaks[:8]) == peaks[:8]
    assert "only the highest and the lowest" in shown(profile(*peaks))
    stream = io.StringIO()
    write_csv(profile(*peaks), stream)
    assert len(stream.getvalue().splitlines()) == 21


def test_the_csv_is_in_bytes_with_empty_cells_for_what_is_not_known() -> None:
    stream = io.StringIO()
    write_csv(profile(TRAIN, OTHERS[0]), stream)
    train, node = csv.DictReader(io.StringIO(stream.getvalue()))
    assert (train["peak_bytes"], train["estimate_bytes"]) == (str(500 * MIB), str(400 * MIB))
    assert (train["data_bytes"], train["logits_bytes"], train["unexplained_bytes"]) == (
        str(150 * MIB),
        "0",
        str(50 * MIB),
    )
    assert node["data_bytes"] == node["unexplained_bytes"] == node["estimate_bytes"] == ""


def test_the_plot_is_a_picture(tmp_path) -> None:
    plot_peaks([TRAIN, PhasePeak(0, "load", "host_resident", 0, MIB, None, {})], "demo", tmp_path / "unfinished")
    assert (tmp_path / "unfinished").read_bytes().startswith(b"\x89PNG")
