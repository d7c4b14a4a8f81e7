"""A profile tells what there is, and what a whole run would have beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.errors import LaunchError
from heterotune.profiling.run_profile import PHASES, PhasePeak, highest_peaks, read_profiles, read_spans


def record(phase: str, peak_bytes: int, *, round_number: int = 1, mpi_rank: int = 0, **more: object) -> dict:
    place = {"round": round_number, "mpi_rank": mpi_rank, "phase": phase, "kind": "host_resident"}
    return {**place, "peak_bytes": peak_bytes, **more}


def run_folder(path: Path, records: list[dict], *, rounds: int = 1, num_ranks: int = 1) -> Path:
    (path / "logs").mkdir(parents=True)
    (path / "config.yaml").write_text(f"name: a\nrounds: {rounds}\n")
    (path / "memory.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    for mpi_rank in range(num_ranks):
        (path / f"logs/rank-{mpi_rank:04d}.log").touch()
    return path


def whole(rounds: int = 1) -> list[dict]:
    return [record(phase, 100, round_number=rounds) for phase in PHASES]


def test_the_highest_peak_of_each_rank_and_phase_with_its_components() -> None:
    low = record("train", 100, components={"data": 100})
    high = record("train", 200, round_number=2, components={"data": 150}, estimate_bytes=190)
    other = record("load", 50, mpi_rank=1)
    peaks = highest_peaks([low, high, other])
    assert peaks == (
        PhasePeak(1, "load", "host_resident", 1, 50, None, {}),
        PhasePeak(0, "train", "host_resident", 2, 200, 190, {"data": 150}),
    )
    assert [peak.unexplained_bytes for peak in peaks] == [None, 50]


def test_of_a_whole_run_nothing_is_missing(tmp_path) -> None:
    (profile,) = read_profiles(run_folder(tmp_path / "run", whole()))
    assert (profile.name, profile.missing, profile.leaks) == ("", (), ())
    assert [peak.phase for peak in profile.peaks] == list(PHASES)


def test_of_a_crashed_run_it_says_what_is_missing(tmp_path) -> None:
    folder = run_folder(tmp_path / "run", [record("train", 100, round_number=2)], rounds=8, num_ranks=3)
    with (folder / "memory.jsonl").open("a") as file:
        file.write('[1]\n{"round": 3, "mpi_ra')
    (folder / "failure.json").write_text(json.dumps({"mpi_rank": 1, "text": "Traceback ...\nOSError: no room"}))
    (profile,) = read_profiles(folder)
    text = "\n".join(profile.missing)
    assert len(profile.peaks) == 1
    assert "line 2 is cut or broken" in text and "line 3 is cut or broken" in text
    assert "Rounds 3 to 8 are missing" in text
    assert "MPI ranks 1, 2 wrote a log, but no memory." in text
    assert "No rank has finished these phases: load, build, encode, gather, aggregate, broadcast" in text
    assert "The run failed: MPI rank 1 failed: OSError: no room" in text


def test_a_run_that_measured_nothing_says_so(tmp_path) -> None:
    folder = run_folder(tmp_path / "run", [])
    (folder / "memory.jsonl").unlink()
    (profile,) = read_profiles(folder)
    assert profile.peaks == () and "nothing was measured so far" in profile.missing[0]


@pytest.mark.parametrize("text", ["rounds: [", "rounds: many", "- 1", None])
def test_a_broken_config_is_no_obstacle(tmp_path, text: str | None) -> None:
    folder = run_folder(tmp_path / "run", whole())
    (folder / "config.yaml").unlink() if text is None else (folder / "config.yaml").write_text(text)
    (profile,) = read_profiles(folder)
    assert len(profile.peaks) == len(PHASES)
    assert profile.missing == ("config.yaml cannot be read, so nobody knows how many rounds there should be.",)


def test_comparisons_have_profiles_of_their_own(tmp_path) -> None:
    folder = run_folder(tmp_path / "run", whole())
    comparison = folder / "compare" / "fedavg_lora"
    comparison.mkdir(parents=True)
    lines = [each for each in whole() if each["phase"] not in ("load", "align")]
    (comparison / "memory.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    first, second = read_profiles(folder)
    assert (second.name, second.folder, second.missing) == ("fedavg_lora", comparison, ())
    assert first.folder == folder
    assert read_profiles(comparison)[0].peaks == second.peaks


def test_a_folder_that_is_no_run_folder_is_refused(tmp_path) -> None:
    with pytest.raises(LaunchError, match="is no run folder: it has no config.yaml"):
        read_profiles(tmp_path)
    with pytest.raises(LaunchError, match="no such run folder"):
        read_profiles(tmp_path / "missing")


def test_without_a_finished_round_there_is_nothing_to_trace(tmp_path) -> None:
    with pytest.raises(LaunchError, match="has no spans.json: no round has ended"):
        read_spans(tmp_path)
