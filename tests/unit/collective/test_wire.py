import struct

import numpy as np
import pytest
import xxhash

from heterotune.collective import wire
from heterotune.errors import WireError

UPDATE = np.array([1.5, -0.0, np.inf, np.nan, 3e-45], np.float32)
DRAW = np.random.default_rng(0)


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
    assert struct.unpack("<Q", message[24:32]) == (xxhash.xxh3_64_intdigest(message[:24] + message[32:]),)
    assert message[32:] == UPDATE.astype("<f4").tobytes()


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_an_empty_update_is_a_header(codec):
    message = wire.encode(UPDATE[:0], codec, DRAW)
    assert len(message) == 32 and wire.decode(message).shape == (0,)


def test_the_payloads_are_the_documented_ones():
    values = np.array([1.0, -3.0, 0.5, 3.0], np.float32)
    assert wire.encode(values, "bf16")[32:] == np.array([0x3F80, 0xC040, 0x3F00, 0x4040], "<u2").tobytes()
    scales, levels = np.array([1.0], "<f4"), np.array([127, -127, 0, 1], np.int8)
    exact = np.array([127, -127, 0, 1], np.float32)
    assert wire.encode(exact, "int8", DRAW)[32:] == scales.tobytes() + levels.tobytes()
    sent = struct.pack("<QIIff", 2, 1, 3, -3.0, 3.0)
    assert wire.encode(values, "topk", topk_share=0.5)[32:] == sent
    np.testing.assert_array_equal(wire.decode(wire.encode(values, "topk", topk_share=0.5), 4), [0, -3, 0, 3])


def test_of_equal_elements_the_first_are_sent():
    values = np.array([1, -2, 2, -2, 2, 1], np.float32)
    np.testing.assert_array_equal(wire.decode(wire.encode(values, "topk", topk_share=0.34), 6), [0, -2, 2, 0, 0, 0])


def sparse(num_elements: int, *places: int) -> bytes:
    """A message in topk with a right checksum."""
    payload = struct.pack(f"<Q{len(places)}I{len(places)}f", len(places), *places, *(1.0 for _ in places))
    return message_of(4, num_elements, payload)


def message_of(number: int, num_elements: int, payload: bytes) -> bytes:
    signed = struct.pack("<4sHHQQ", b"HTUP", 1, number, num_elements, len(payload))
    return signed + struct.pack("<Q", xxhash.xxh3_64_intdigest(signed + payload)) + payload


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sparse(5, 2, 2), "the places of an update in topk do not rise from 0 to at most 4"),
        (sparse(5, 3, 2), "do not rise"),
        (sparse(5, 5), "do not rise"),
        (sparse(5, 0, 1, 2, 3, 4, 5), "do not rise"),
        (message_of(4, 5, b"\0" * 7), "5 elements in topk has a payload of 8 bytes; the header says 7 and 7 came"),
        (message_of(4, 5, b"\2" + b"\0" * 15), "has a payload of 24 bytes; the header says 16 and 16 came"),
        (message_of(4, 5, b"\xff" * 16), "has a payload of 147573952589676412928 bytes"),
        (
            message_of(3, 5, struct.pack("<f5b", np.nan, 1, 2, 3, 4, 5)),
            "block 0 of an update in int8 has the scale nan",
        ),
        (message_of(3, 1, struct.pack("<fb", -1.0, 1)), "has the scale -1.0: not finite, or negative"),
        (message_of(3, 5, b"\0" * 5), "5 elements in int8 has a payload of 9 bytes"),
        (message_of(2, 5, b"\0" * 9), "5 elements in bf16 has a payload of 10 bytes"),
    ],
)
def test_malformed_payloads_are_refused(data, message):
    with pytest.raises(WireError, match=message):
        wire.decode(data, 5 if data[8] == 5 else 1)


def test_few_places_do_not_ask_for_much_memory():
    with pytest.raises(WireError, match="an update in topk is read only where its number of elements is known"):
        wire.decode(sparse(2**40, 3))
    with pytest.raises(WireError, match="has 1099511627776 elements where 5 were expected"):
        wire.decode(sparse(2**40, 3), 5)


def test_an_update_with_more_elements_than_places_is_refused():
    endless = np.broadcast_to(np.float32(0), (2**32 + 1,))  # takes 4 bytes
    with pytest.raises(WireError, match="4294967297 elements is too long for topk"):
        wire.encode(endless, "topk", topk_share=0.01)


def test_messages_in_a_row_must_add_up():
    row = wire.encode(UPDATE) + wire.encode(UPDATE)
    assert wire.decode_all(row, 10).tobytes() == UPDATE.tobytes() * 2
    with pytest.raises(WireError, match="an update has 10 elements where 11 were expected"):
        wire.decode_all(row, 11)
    with pytest.raises(WireError, match="the header says 20 and 19 came"):
        wire.decode_all(row[:-1], 10)


def test_codecs_are_given_what_they_need():
    with pytest.raises(AssertionError, match="int8 rounds at random and needs a generator"):
        wire.encode(UPDATE, "int8")
    with pytest.raises(AssertionError, match="topk must be told the share"):
        wire.encode(UPDATE, "topk")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 32 bytes, got 0"),
        (wire.encode(UPDATE)[:31], "at least 32 bytes, got 31"),
        (damaged(0, b"GIF8"), "not a heterotune update: it begins with b'GIF8'"),
        (damaged(28, b"\x01"), "damaged on its way"),
        (damaged(4, b"\x02"), "wire version 2 is not the version of this program, 1"),
        (damaged(6, b"\x09"), "no wire codec has the number 9; there are fp32, bf16, int8, topk"),
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
