"""An update as bytes, and back. The only place that makes or reads bytes of tensors that travel.

A message is a header of 32 bytes and a payload, little-endian:

    offset  bytes
         0      4  magic "HTUP"
         4      2  version
         6      2  codec number
         8      8  number of elements
        16      8  number of payload bytes
        24      4  CRC-32 of bytes 0-23 and the payload
        28      4  zero
        32      .  payload
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from heterotune.errors import WireError

MAGIC = b"HTUP"
VERSION = 1
_SIGNED = struct.Struct("<4sHHQQ")
_TAIL = struct.Struct("<II")
HEADER_BYTES = _SIGNED.size + _TAIL.size


@dataclass(frozen=True)
class Codec:
    """One way to write float32 numbers. Adding one (bf16, int8, top-k) is adding a row to `CODECS`."""

    number: int
    name: str
    payload_bytes: Callable[[int], int]
    """Elements to bytes: checked before anything is allocated."""
    write: Callable[[np.ndarray], bytes]
    read: Callable[[memoryview], np.ndarray]
    """Payload of the right length to a new float32 array."""


CODECS = (
    Codec(
        number=1,
        name="fp32",
        payload_bytes=lambda num_elements: 4 * num_elements,
        write=lambda values: values.astype("<f4", copy=False).tobytes(),
        read=lambda payload: np.frombuffer(payload, "<f4").astype(np.float32),
    ),
)


def encode(array: np.ndarray, codec: str = "fp32") -> bytes:
    """Write one update.

    Args:
        array: float32, shape (elements,). Any bit pattern travels unchanged; aggregation, not the wire, refuses NaN.
        codec: A name in `CODECS`.

    Returns:
        The whole message; its length is what the ledger counts.

    Raises:
        WireError: If there is no such codec.
    """
    assert array.dtype == np.float32 and array.ndim == 1, "an update travels as one flat float32 array"
    chosen = _find("name", codec)
    payload = chosen.write(array)
    signed = _SIGNED.pack(MAGIC, VERSION, chosen.number, array.size, len(payload))
    return b"".join((signed, _TAIL.pack(_checksum(signed, payload), 0), payload))


def decode(data: bytes | memoryview, num_elements: int | None = None) -> np.ndarray:
    """Read one update. Allocates nothing before the header, the length and the checksum are found right.

    Args:
        data: The whole message and nothing after it. Not changed.
        num_elements: How many elements the reader expects; None takes what comes.

    Returns:
        A new float32 array, shape (elements,).

    Raises:
        WireError: If the bytes are not a whole, undamaged message of this version, or have another number of elements.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise WireError(f"a message has at least {HEADER_BYTES} bytes, got {len(view)}")
    signed, payload = view[: _SIGNED.size], view[HEADER_BYTES:]
    magic, version, codec_number, got_elements, payload_bytes = _SIGNED.unpack(signed)
    checksum, zero = _TAIL.unpack(view[_SIGNED.size : HEADER_BYTES])
    if magic != MAGIC or zero != 0:
        raise WireError(f"not a heterotune update: it begins with {bytes(view[:4])!r}")
    if version != VERSION:
        raise WireError(f"wire version {version} is not the version of this program, {VERSION}")
    codec = _find("number", codec_number)
    expected_bytes = codec.payload_bytes(got_elements)
    if not payload_bytes == len(payload) == expected_bytes:
        raise WireError(
            f"an update of {got_elements} elements in {codec.name} has a payload of {expected_bytes} bytes; "
            f"the header says {payload_bytes} and {len(payload)} came"
        )
    if checksum != _checksum(signed, payload):
        raise WireError("an update was damaged on its way: its checksum differs")
    if num_elements is not None and got_elements != num_elements:
        raise WireError(f"an update has {got_elements} elements where {num_elements} were expected")
    return codec.read(payload)


def _find(field: str, value: object) -> Codec:
    """Return the codec whose `field` is `value`."""
    for codec in CODECS:
        if getattr(codec, field) == value:
            return codec
    raise WireError(f"no wire codec has the {field} {value!r}; there are {', '.join(codec.name for codec in CODECS)}")


def _checksum(signed: bytes | memoryview, payload: bytes | memoryview) -> int:
    """Return the CRC-32 of header and payload."""
    return zlib.crc32(payload, zlib.crc32(signed))
