import struct
import zlib

import numpy as np
import pytest

from heterotune.collective import wire
from heterotune.errors import WireError

UPDATE = np.array([1.5, -0.0, np.inf, np.nan, 3e-45], np.float32)


def damaged(offset: int, data: bytes) -> bytes:
    message = wire.encode(UPDATE)
    return message[:offset] + data + message[offset + len(data) :]


def test_every_bit_pattern_travels():
    decoded = wire.decode(wire.encode(UPDATE), len(UPDATE))
    assert decoded.tobytes() == UPDATE.tobytes()
    assert decoded.dtype == np.float32 and decoded.flags.writeable


def test_the_layout_is_the_documented_one():
    message = wire.encode(UPDATE)
    assert len(message) == 32 + 4 * 5 and wire.HEADER_BYTES == 32
    assert struct.unpack("<4sHHQQ", message[:24]) == (b"HTUP", 1, 1, 5, 20)
    assert struct.unpack("<II", message[24:32]) == (zlib.crc32(message[:24] + message[32:]), 0)
    assert message[32:] == UPDATE.astype("<f4").tobytes()


def test_an_empty_update_is_a_header():
    assert wire.decode(wire.encode(UPDATE[:0])).shape == (0,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 32 bytes, got 0"),
        (wire.encode(UPDATE)[:31], "at least 32 bytes, got 31"),
        (damaged(0, b"GIF8"), "not a heterotune update: it begins with b'GIF8'"),
        (damaged(28, b"\x01"), "not a heterotune update"),
        (damaged(4, b"\x02"), "wire version 2 is not the version of this program, 1"),
        (damaged(6, b"\x09"), "no wire codec has the number 9; there are fp32"),
        (damaged(8, b"\x06"), "6 elements in fp32 has a payload of 24 bytes; the header says 20 and 20 came"),
        (damaged(16, b"\x15"), "5 elements in fp32 has a payload of 20 bytes; the header says 21 and 20 came"),
        (wire.encode(UPDATE) + b"\0", "the header says 20 and 21 came"),
        (wire.encode(UPDATE)[:-1], "the header says 20 and 19 came"),
        (damaged(8, b"\xff" * 16), "the header says 18446744073709551615 and 20 came"),
        (damaged(24, b"\0\0\0\0"), "damaged on its way"),
        (damaged(40, b"\x77"), "damaged on its way"),
    ],
)
def test_malformed_messages_are_refused(data, message):
    with pytest.raises(WireError, match=message):
        wire.decode(data)


def test_an_unexpected_length_is_refused():
    with pytest.raises(WireError, match="an update has 5 elements where 6 were expected"):
        wire.decode(wire.encode(UPDATE), 6)


def test_an_unknown_codec_is_refused():
    with pytest.raises(WireError, match="no wire codec has the name 'int3'; there are fp32"):
        wire.encode(UPDATE, "int3")


@pytest.mark.parametrize("array", [UPDATE.astype(np.float64), UPDATE.reshape(1, 5)])
def test_only_flat_float32_is_written(array):
    with pytest.raises(AssertionError, match="one flat float32 array"):
        wire.encode(array)
