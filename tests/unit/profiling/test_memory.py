"""The resident peak of a stretch of time: both ways to measure see a large allocation and forget it afterwards."""

from __future__ import annotations

import pytest
import torch

from heterotune.profiling import memory
from heterotune.profiling.memory import ResidentPeak, device_peaks

BLOCK_BYTES = 64 * 2**20


@pytest.mark.parametrize("sampled", [False, True])
def test_the_peak_sees_what_was_freed_again(sampled: bool, resident_block) -> None:
    peak = ResidentPeak(sampled=sampled)
    peak.start()
    with resident_block(BLOCK_BYTES):
        with_block = peak.stop()
    peak.start()
    without_block = peak.stop()
    assert with_block - without_block > BLOCK_BYTES // 2


def test_without_the_systems_peak_it_samples(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("heterotune.profiling.memory._CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert ResidentPeak().sampled


def test_a_system_that_resets_but_has_no_peak_is_our_mistake(monkeypatch, tmp_path) -> None:
    (tmp_path / "status").write_text("VmRSS: 1 kB\n")
    monkeypatch.setattr("heterotune.profiling.process_memory._STATUS", tmp_path / "status")
    with pytest.raises(AssertionError, match="has no VmHWM"):
        ResidentPeak(sampled=False).stop()


def test_locked_pages_count_as_pinned_and_zeros_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(memory.process_memory, "locked_bytes", lambda: 0)
    assert "host_pinned" not in device_peaks() or torch.cuda.is_available()
    monkeypatch.setattr(memory.process_memory, "locked_bytes", lambda: 4096)
    assert device_peaks()["host_pinned"] >= 4096
