"""Peak memory of a rank by phase: resident from the operating system, allocated and reserved from torch on a GPU.

Linux keeps a process's resident peak (VmHWM) and lets the process reset it, so the number is exact and costs nothing
while a phase runs. Elsewhere, and where the reset is forbidden, a thread samples the resident size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

HOST_RESIDENT = "host_resident"
DEVICE_ALLOCATED = "device_allocated"
DEVICE_RESERVED = "device_reserved"

_STATUS = Path("/proc/self/status")
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


class MemoryRecorder:
    """Peaks of one rank, by phase. Phases do not nest: a peak belongs to one of them."""

    def __init__(self, mpi_rank: int) -> None:
        """Begin with no phase.

        Args:
            mpi_rank: Whose memory this is.
        """
        self._mpi_rank = mpi_rank
        self._resident = ResidentPeak()
        self._peaks: dict[tuple[str, str], int] = {}
        self._current: str | None = None

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Measure what runs inside; of a phase that runs several times the highest peak is kept."""
        return self._measure(name)

    @contextmanager
    def _measure(self, name: str) -> Iterator[None]:
        assert self._current is None, f"phase {name} inside phase {self._current}"
        self._current = name
        self._resident.start()
        _reset_device_peaks()
        try:
            yield
        finally:
            self._current = None
            for kind, peak in {HOST_RESIDENT: self._resident.stop(), **_device_peaks()}.items():
                self._peaks[name, kind] = max(self._peaks.get((name, kind), 0), peak)

    def drain(self) -> list[dict[str, Any]]:
        """Return {"mpi_rank", "phase", "kind", "peak_bytes"} for each phase since the last call, and begin anew."""
        peaks, self._peaks = self._peaks, {}
        return [
            {"mpi_rank": self._mpi_rank, "phase": phase, "kind": kind, "peak_bytes": peak}
            for (phase, kind), peak in peaks.items()
        ]


def _reset_peak() -> bool:
    """Set VmHWM to the present resident size; False where that is not possible."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _peak_bytes() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/status has no VmHWM although its reset worked")


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


def _reset_device_peaks() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _device_peaks() -> dict[str, int]:
    if not torch.cuda.is_available():
        return {}
    return {
        DEVICE_ALLOCATED: torch.cuda.max_memory_allocated(),
        DEVICE_RESERVED: torch.cuda.max_memory_reserved(),
    }
