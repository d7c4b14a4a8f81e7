"""The upper half of a float32: 8 bits of exponent and 7 of fraction, rounded to nearest, ties to even."""

from __future__ import annotations

import numpy as np

TILE_ELEMENTS = 1 << 20
"""Elements that are turned at a time: the memory of the intermediate steps stays bounded."""

_QUIET = np.uint32(0x0040)
_HALF_LESS_ONE = np.uint32(0x7FFF)


def write(values: np.ndarray) -> bytes:
    """Return 2 bytes an element. An infinity stays one, a NaN stays a NaN of the same sign."""
    halves = np.empty(values.size, "<u2")
    for start in range(0, values.size, TILE_ELEMENTS):
        tile = values[start : start + TILE_ELEMENTS]
        bits = np.ascontiguousarray(tile, np.float32).view(np.uint32)
        upper = bits >> np.uint32(16)
        with np.errstate(over="ignore"):  # only a NaN can overflow, and its rounding is thrown away
            rounded = (bits + _HALF_LESS_ONE + (upper & np.uint32(1))) >> np.uint32(16)
        halves[start : start + tile.size] = np.where(np.isnan(tile), upper | _QUIET, rounded)
    return halves.tobytes()


def read(payload: memoryview) -> np.ndarray:
    """Return the numbers as a new float32 array."""
    bits = np.frombuffer(payload, "<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)
