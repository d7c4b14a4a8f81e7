"""An update as bytes, and back. The only place that makes or reads bytes of tensors that travel.

A message is a header of 32 bytes and a payload, little-endian:

    offset  bytes
         0      4  magic "HTUP"
         4      2  version
         6      2  codec number
         8      8  number of elements
        16      8  number of payload bytes
        24      8  XXH3-64 of bytes 0-23 and the payload; no cryptographic digest: it finds damage, not forgery
        32      .  payload
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import xxhash

from heterotune.collective.codecs import codec_named, codec_numbered
from heterotune.errors import WireError

MAGIC = b"HTUP"
VERSION = 1
_SIGNED = struct.Struct("<4sHHQQ")
_TAIL = struct.Struct("<Q")
HEADER_BYTES = _SIGNED.size + _TAIL.size


def encode(
    array: np.ndarray,
    codec: str = "fp32",
    draw: np.random.Generator | None = None,
    *,
    topk_share: float | None = None,
) -> bytes:
    """Write one update.

    Args:
        array: float32, shape (elements,). Not changed. What is not finite stays so: aggregation, not the wire, refuses
            it.
        codec: A name in `codecs.CODECS`.
        draw: For formats that round at random.
        topk_share: Share of elements that topk sends, above 0 and at most 1.

    Returns:
        The whole message; its length is what the ledger counts.

    Raises:
        WireError: If there is no such codec.
    """
    assert array.dtype == np.float32 and array.ndim == 1, "an update travels as one flat float32 array"
    chosen = codec_named(codec)
    payload = chosen.write(array, draw, topk_share)
    signed = _SIGNED.pack(MAGIC, VERSION, chosen.number, array.size, len(payload))
    return b"".join((signed, _TAIL.pack(_checksum(signed, payload)), payload))


def message_bytes(num_elements: int, codec: str, *, topk_share: float | None = None) -> int:
    """Return how long `encode` makes the message of so many elements. For plans; the ledger counts real messages."""
    return HEADER_BYTES + codec_named(codec).planned_bytes(num_elements, topk_share)


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
    (checksum,) = _TAIL.unpack(view[_SIGNED.size : HEADER_BYTES])
    if magic != MAGIC:
        raise WireError(f"not a heterotune update: it begins with {bytes(view[:4])!r}")
    if version != VERSION:
        raise WireError(f"wire version {version} is not the version of this program, {VERSION}")
    codec = codec_numbered(codec_number)
    expected_bytes = codec.payload_bytes(got_elements, payload)
    if not payload_bytes == len(payload) == expected_bytes:
        raise WireError(
            f"an update of {got_elements} elements in {codec.name} has a payload of {expected_bytes} bytes; "
            f"the header says {payload_bytes} and {len(payload)} came"
        )
    if checksum != _checksum(signed, payload):
        raise WireError("an update was damaged on its way: its checksum differs")
    if num_elements is not None and got_elements != num_elements:
        raise WireError(f"an update has {got_elements} elements where {num_elements} were expected")
    if num_elements is None and codec.is_sparse:
        raise WireError(f"an update in {codec.name} is read only where its number of elements is known")
    return codec.read(payload, got_elements)


def decode_all(data: bytes, num_elements: int) -> np.ndarray:
    """Read messages that stand one after the other, as one array.

    Args:
        data: Whole messages and nothing after the last. Not changed.
        num_elements: How many elements the reader expects of all together.

    Raises:
        WireError: As for `decode`.
    """
    parts = list(_split(memoryview(data)))
    if len(parts) == 1:
        return decode(parts[0], num_elements)
    values = np.concatenate([decode(part) for part in parts])
    if values.size != num_elements:
        raise WireError(f"an update has {values.size} elements where {num_elements} were expected")
    return values


def _split(data: memoryview) -> Iterator[memoryview]:
    """Cut messages apart by the lengths in their headers; what is no whole message is left to `decode` to refuse."""
    while True:
        is_header = len(data) >= HEADER_BYTES
        num_bytes = HEADER_BYTES + _SIGNED.unpack(data[: _SIGNED.size])[-1] if is_header else len(data)
        yield data[:num_bytes]
        data = data[num_bytes:]
        if not data:
            return


def _checksum(signed: bytes | memoryview, payload: bytes | memoryview) -> int:
    """Return the XXH3-64 of header and payload: 7.5 GB/s here (2026-11-21), where zlib's CRC-32 makes 1.2."""
    digest = xxhash.xxh3_64(signed)
    digest.update(payload)
    return digest.intdigest()
