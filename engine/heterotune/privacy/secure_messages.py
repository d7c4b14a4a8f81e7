"""The messages of a secure sum as bytes, so that the ledger counts what such a protocol costs.

A message is a header of 36 bytes and records of one size, little-endian:

    offset  bytes
         0      4  magic "HTSS"
         4      2  version
         6      2  kind
         8      8  client that sends it (up) or gets it (down)
        16      8  round
        24      8  number of payload bytes
        32      4  CRC-32 of bytes 0-31 and the payload
        36      .  records
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from heterotune.errors import WireError

MAGIC = b"HTSS"
VERSION = 1
_SIGNED = struct.Struct("<4sHHqqQ")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _SIGNED.size + _CHECKSUM.size


@dataclass(frozen=True)
class Kind:
    """One kind of message."""

    number: int
    name: str
    record: struct.Struct

    def num_bytes(self, num_records: int) -> int:
        """Return the length of a message."""
        return HEADER_BYTES + num_records * self.record.size


KEYS = Kind(1, "keys", struct.Struct("<q32s32s"))
"""Client, its public keys for sealing and for masks; up: its own, down: everybody's."""
SHARES = Kind(2, "shares", struct.Struct("<q80s"))
"""Up: receiver and what is sealed for it; down: sender and what it sealed: a share of each of its two secrets."""
MASKED = Kind(3, "masked", struct.Struct("<Q"))
"""An element of the masked vector."""
SURVIVORS = Kind(4, "survivors", struct.Struct("<q"))
"""A client whose masked vector arrived."""
REVEALED = Kind(5, "revealed", struct.Struct("<q32s"))
"""Client and a share: of its own mask's seed if its vector arrived, else of its key for masks."""


def encode(kind: Kind, payload: bytes, *, client_id: int, round_number: int) -> bytes:
    """Return a whole message; `payload` is packed records of its kind."""
    assert len(payload) % kind.record.size == 0
    signed = _SIGNED.pack(MAGIC, VERSION, kind.number, client_id, round_number, len(payload))
    return b"".join((signed, _CHECKSUM.pack(_checksum(signed, payload)), payload))


def decode(kind: Kind, data: bytes, *, round_number: int) -> tuple[int, memoryview]:
    """Return client and payload of a message.

    Raises:
        WireError: If the bytes are not a whole, undamaged message of this kind and round.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise WireError(f"a message of a secure sum has at least {HEADER_BYTES} bytes, got {len(view)}")
    signed, payload = view[: _SIGNED.size], view[HEADER_BYTES:]
    magic, version, number, client_id, got_round, payload_bytes = _SIGNED.unpack(signed)
    if magic != MAGIC or version != VERSION:
        raise WireError(f"not a message of a secure sum of version {VERSION}: it begins with {bytes(view[:6])!r}")
    if payload_bytes != len(payload) or len(payload) % kind.record.size:
        raise WireError(f"a message of a secure sum ({kind.name}) says {payload_bytes} bytes and has {len(payload)}")
    if _CHECKSUM.unpack(view[_SIGNED.size : HEADER_BYTES])[0] != _checksum(signed, payload):
        raise WireError("a message of a secure sum was damaged on its way: its checksum differs")
    if (number, got_round) != (kind.number, round_number):
        told = f"kind {number} of round {got_round}, expected {kind.number} ({kind.name}) of round {round_number}"
        raise WireError(f"a message of a secure sum is of {told}")
    return client_id, payload


def _checksum(signed: bytes | memoryview, payload: bytes | memoryview) -> int:
    """Return the CRC-32 of header and payload."""
    return zlib.crc32(payload, zlib.crc32(signed))
