"""What Linux and the C library say of this process's memory. Elsewhere only the resident size is known."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")
_PAGEMAP = Path("/proc/self/pagemap")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES = 8
_PRESENT = 0x80  # bit 63 of a page's entry, in its last byte


@dataclass(frozen=True)
class ProcessMemory:
    """One look at the process.

    Attributes:
        resident_bytes: In memory now.
        file_bytes: The part of it that are pages of files: code, libraries, mapped weights.
        free_heap_bytes: What the C library's allocator holds and nobody uses: freed, or too small a gap.
    """

    resident_bytes: int
    file_bytes: int = 0
    free_heap_bytes: int = 0


def read_process_memory() -> ProcessMemory:
    """Look at this process; takes about a millisecond where the heap is in many pieces."""
    try:
        status = status_bytes()
    except OSError:
        return ProcessMemory(psutil.Process().memory_info().rss)
    return ProcessMemory(status["VmRSS"], status["RssFile"], free_heap_bytes())


def status_bytes() -> dict[str, int]:
    """Return the lines of /proc/self/status that are sizes, e.g. VmHWM, in bytes."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def locked_bytes() -> int:
    """Return the bytes that may not be swapped out, e.g. DeepSpeed's buffers for NVMe; 0 where nobody knows."""
    try:
        return status_bytes().get("VmLck", 0)
    except OSError:
        return 0


def free_heap_bytes() -> int:
    """Return the bytes of all arenas of glibc's allocator that are in no block in use; 0 with another C library."""
    mallinfo2 = _mallinfo2()
    return 0 if mallinfo2 is None else int(mallinfo2().fordblks)


def pss_bytes() -> int | None:
    """Return the process's proportional set size: shared pages count in parts. None where the kernel does not say."""
    try:
        lines = _ROLLUP.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def resident_part(address: int, num_bytes: int) -> int:
    """Return how many bytes of a mapped range this process has in memory; all of it where the kernel does not say."""
    first, last = address // _PAGE_BYTES, -(-(address + num_bytes) // _PAGE_BYTES)
    try:
        with _PAGEMAP.open("rb", buffering=0) as pagemap:
            pagemap.seek(first * _ENTRY_BYTES)
            entries = pagemap.read((last - first) * _ENTRY_BYTES)
    except OSError:
        return num_bytes
    present = sum(byte >= _PRESENT for byte in entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES])
    return min(num_bytes, present * _PAGE_BYTES)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _Mallinfo2
    return function
