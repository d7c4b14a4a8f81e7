"""Eight bits an element and one scale a block of 256, rounded up or down at random so that the mean is right.

Of a block, with the scale s >= max|x| / 127 (finite elements only) and u drawn uniformly from [0, 1):

    q = floor(x / s + u)        decoded q·s        E[q·s] = x        |q·s - x| < s        q = -128: not finite

s has 17 bits of precision, so that q·s is exact in float32; a block of zeros has the scale 0 and stays exact. The
payload is one float32 scale a block, then one int8 an element.

Source: stochastic quantization as in QSGD (Alistarh et al., 2017), with the maximum norm and in blocks.
"""

from __future__ import annotations

import numpy as np

from heterotune.errors import WireError

BLOCK = 256
_LEVELS = 127
_NOT_FINITE = -128
_TILE_BLOCKS = 4096
_ROUND_UP = np.uint32(0x7F)  # of 24 bits of precision the lower 7 are cut off, upward


def payload_bytes(num_elements: int) -> int:
    """Return the length of a payload."""
    return 4 * _num_blocks(num_elements) + num_elements


def write(values: np.ndarray, draw: np.random.Generator) -> bytes:
    """Return scales and levels.

    Args:
        values: float32, shape (elements,). Elements that are not finite arrive as NaN.
        draw: Decides which way each element is rounded.
    """
    scales = np.empty(_num_blocks(values.size), "<f4")
    levels = np.empty(values.size, np.int8)
    for first in range(0, scales.size, _TILE_BLOCKS):
        tile = values[first * BLOCK : (first + _TILE_BLOCKS) * BLOCK]
        blocks = np.zeros((_num_blocks(tile.size), BLOCK), np.float32)
        blocks.reshape(-1)[: tile.size] = tile
        is_finite = np.isfinite(blocks)
        blocks[~is_finite] = 0.0
        scale = _scales(np.abs(blocks).max(axis=1))
        level = blocks / np.where(scale > 0, scale, 1.0).astype(np.float64)[:, None]
        level += draw.random(blocks.shape, dtype=np.float32)  # 24 bits: below 1 even after the sum is rounded
        np.floor(level, out=level)
        level[~is_finite] = _NOT_FINITE
        scales[first : first + scale.size] = scale
        levels[first * BLOCK : first * BLOCK + tile.size] = level.reshape(-1)[: tile.size]
    return scales.tobytes() + levels.tobytes()


def read(payload: memoryview, num_elements: int) -> np.ndarray:
    """Return the numbers as a new float32 array; the payload has the right length.

    Raises:
        WireError: If a scale is negative or not finite, which `write` never writes.
    """
    scales = np.frombuffer(payload[: 4 * _num_blocks(num_elements)], "<f4")
    levels = np.frombuffer(payload[4 * scales.size :], np.int8)
    if not np.all((scales >= 0) & (scales < np.inf)):
        bad = int(np.argmin((scales >= 0) & (scales < np.inf)))
        raise WireError(f"block {bad} of an update in int8 has the scale {scales[bad]}: not finite, or negative")
    values = levels.astype(np.float32)
    values[levels == _NOT_FINITE] = np.nan
    whole = num_elements - num_elements % BLOCK
    with np.errstate(over="ignore"):  # numbers near the end of float32 may arrive as infinities
        values[:whole].reshape(-1, BLOCK)[:] *= scales[: whole // BLOCK, None]
        values[whole:] *= scales[-1:] if whole < num_elements else 1.0
    return values


def _num_blocks(num_elements: int) -> int:
    return -(-num_elements // BLOCK)


def _scales(peaks: np.ndarray) -> np.ndarray:
    """Return the smallest scales of 17 bits with peak / scale <= 127."""
    exact = peaks.astype(np.float64) / _LEVELS
    scales = exact.astype(np.float32)
    scales = np.where(scales < exact, np.nextafter(scales, np.float32(np.inf)), scales)
    return ((scales.view(np.uint32) + _ROUND_UP) & ~_ROUND_UP).view(np.float32)
