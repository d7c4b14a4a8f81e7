"""Of every element only the largest ones: their number, their places in rising order, their values in float32.

    offset  bytes
         0      8  number of elements k that are sent
         8     4k  places, rising
    8 + 4k     4k  values

What is left out is not lost: the client keeps it and adds it to its next update (error feedback, see `uplink.py`).

Source: top-k sparsification with memory (Stich, Cordonnier and Jaggi, 2018).
"""

from __future__ import annotations

import struct

import numpy as np

from heterotune.errors import WireError

_COUNT = struct.Struct("<Q")
_MAX_ELEMENTS = 1 << 32
_SENT_BYTES = 8  # a place and a value


def num_sent(num_elements: int, share: float) -> int:
    """Return k: the share, rounded, but at least one element where there is any."""
    return min(num_elements, max(1, round(share * num_elements)))


def planned_bytes(num_elements: int, share: float) -> int:
    """Return the length of the payload in which a share of so many elements is sent."""
    return _COUNT.size + _SENT_BYTES * num_sent(num_elements, share)


def payload_bytes(payload: memoryview) -> int:
    """Return the length that a payload should have by what it says of itself."""
    return _COUNT.size + (_SENT_BYTES * _COUNT.unpack_from(payload)[0] if len(payload) >= _COUNT.size else 0)


def write(values: np.ndarray, share: float) -> bytes:
    """Return the largest elements by magnitude; elements that are not finite count as the largest.

    Raises:
        WireError: If there are more elements than places of 32 bits.
    """
    if values.size > _MAX_ELEMENTS:
        raise WireError(f"an update of {values.size} elements is too long for topk, which writes at most 2^32")
    places = largest(values, num_sent(values.size, share))
    return b"".join(
        (_COUNT.pack(places.size), places.astype("<u4").tobytes(), values[places].astype("<f4", copy=False).tobytes())
    )


def read(payload: memoryview, num_elements: int) -> np.ndarray:
    """Return all elements as a new float32 array, zero where nothing was sent; the payload has the right length.

    Raises:
        WireError: If a place is given twice, out of order or beyond the end.
    """
    (count,) = _COUNT.unpack_from(payload)
    places = np.frombuffer(payload[_COUNT.size : _COUNT.size + 4 * count], "<u4")
    if count and (int(places[-1]) >= num_elements or not np.all(places[1:] > places[:-1])):
        raise WireError(f"the places of an update in topk do not rise from 0 to at most {num_elements - 1}")
    values = np.zeros(num_elements, np.float32)
    values[places] = np.frombuffer(payload[_COUNT.size + 4 * count :], "<f4")
    return values


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest magnitudes in rising order; of equal ones the first."""
    if count == values.size:
        return np.arange(values.size)
    magnitudes = np.abs(values)
    magnitudes[~np.isfinite(magnitudes)] = np.inf
    # Not argpartition: which of equal elements it takes depends on the processor's vector instructions.
    threshold = np.partition(magnitudes, values.size - count)[values.size - count]
    chosen = magnitudes > threshold
    ties = np.flatnonzero(magnitudes == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)
