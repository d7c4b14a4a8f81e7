"""What the C library's allocator keeps of memory that was freed."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Return free pages of this process's heap to the system, where glibc can; without it only those at its end go."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
