"""Peaks belong to their phase; both ways to measure see a large allocation and forget it afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.profiling.memory import MemoryRecorder, ResidentPeak

BLOCK_BYTES = 64 * 2**20


def touch() -> None:
    """Make a block of memory resident for a moment."""
    np.ones(BLOCK_BYTES, dtype=np.uint8).sum()


@pytest.mark.parametrize("sampled", [False, True])
def test_the_peak_sees_what_was_freed_again(sampled: bool) -> None:
    peak = ResidentPeak(sampled=sampled)
    peak.start()
    block = np.ones(BLOCK_BYTES, dtype=np.uint8)
    with_block = peak.stop()
    del block
    peak.start()
    without_block = peak.stop()
    assert with_block - without_block > BLOCK_BYTES // 2


def test_each_phase_has_its_own_peak() -> None:
    recorder = MemoryRecorder(mpi_rank=3)
    with recorder.phase("quiet"):
        pass
    with recorder.phase("train"):
        touch()
    with recorder.phase("quiet"):
        pass
    records = {record["phase"]: record for record in recorder.drain() if record["kind"] == "host_resident"}
    assert list(records) == ["quiet", "train"]
    assert records["train"]["peak_bytes"] - records["quiet"]["peak_bytes"] > BLOCK_BYTES // 2
    assert records["train"]["mpi_rank"] == 3
    assert recorder.drain() == []


def test_a_phase_that_raises_is_recorded_and_the_next_one_works() -> None:
    recorder = MemoryRecorder(0)
    with pytest.raises(KeyError), recorder.phase("train"):
        raise KeyError
    with recorder.phase("gather"):
        pass
    assert [record["phase"] for record in recorder.drain() if record["kind"] == "host_resident"] == ["train", "gather"]


def test_phases_do_not_nest() -> None:
    recorder = MemoryRecorder(0)
    with pytest.raises(AssertionError, match="phase inner inside phase outer"), recorder.phase("outer"):
        with recorder.phase("inner"):
            pass


def test_without_the_systems_peak_it_samples(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("heterotune.profiling.memory._CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert ResidentPeak().sampled


def test_a_system_that_resets_but_has_no_peak_is_our_mistake(monkeypatch, tmp_path) -> None:
    (tmp_path / "status").write_text("VmRSS: 1 kB\n")
    monkeypatch.setattr("heterotune.profiling.memory._STATUS", tmp_path / "status")
    with pytest.raises(AssertionError, match="has no VmHWM"):
        ResidentPeak(sampled=False).stop()
