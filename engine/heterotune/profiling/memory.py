"""Peak memory of a rank by phase: resident from the operating system, allocated and reserved from torch on a GPU.

Linux keeps a process's resident peak (VmHWM) and lets the process reset it, so the number is exact and costs nothing
while a phase runs. Elsewhere, and where the reset is forbidden, a thread samples the resident size.
"""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import torch

from heterotune.profiling import process_memory
from heterotune.profiling.kinds import DEVICE_ALLOCATED, DEVICE_RESERVED, HOST_PINNED

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SAMPLE_SECONDS = 0.02


class ResidentPeak:
    """The resident peak of this process between `start` and `stop`."""

    def __init__(self, *, sampled: bool | None = None) -> None:
        """Pick the way to measure.

        Args:
            sampled: Sample in a thread; None = only where the operating system's own peak cannot be reset.
        """
        self.sampled = not _reset_peak() if sampled is None else sampled
        self._sampler: _Sampler | None = None

    def start(self) -> None:
        """Forget the peak so far."""
        if not self.sampled:
            _reset_peak()
            return
        self._sampler = _Sampler()
        self._sampler.start()

    def stop(self) -> int:
        """Return the peak since `start`, in bytes."""
        if self._sampler is None:
            return _peak_bytes()
        sampler, self._sampler = self._sampler, None
        return sampler.finish()


def _reset_peak() -> bool:
    """Set VmHWM to the present resident size; False where that is not possible."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _peak_bytes() -> int:
    sizes = process_memory.status_bytes()
    if "VmHWM" not in sizes:
        raise AssertionError("/proc/self/status has no VmHWM although its reset worked")
    return sizes["VmHWM"]


class _Sampler(threading.Thread):
    """Looks at the resident size every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="resident-peak")
        self._process = psutil.Process()
        self._peak_bytes = self._process.memory_info().rss
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(_SAMPLE_SECONDS):
            self._sample()

    def finish(self) -> int:
        self._finished.set()
        self.join()
        self._sample()
        return self._peak_bytes

    def _sample(self) -> None:
        self._peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)


def reset_device_peaks() -> None:
    """Forget the GPU's peaks so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_peak_host_memory_stats()


def device_peaks() -> dict[str, int]:
    """Return the GPU's peaks since the reset, and what is pinned or locked of the host's memory; no zeros."""
    peaks = {HOST_PINNED: process_memory.locked_bytes()}
    if torch.cuda.is_available():
        peaks[HOST_PINNED] += torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0)
        peaks[DEVICE_ALLOCATED] = torch.cuda.max_memory_allocated()
        peaks[DEVICE_RESERVED] = torch.cuda.max_memory_reserved()
    return {kind: peak for kind, peak in peaks.items() if peak}
