"""Updates and ledgers survive the wire; hostile bytes give WireError and nothing else."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from heterotune.collective import wire
from heterotune.collective.ledger import Ledger, LedgerEntry
from heterotune.errors import WireError

UPDATES = hypothesis_numpy.arrays(np.float32, st.integers(0, 50))
INT64 = st.integers(-(2**63), 2**63 - 1)
ENTRIES = st.builds(
    LedgerEntry,
    round_number=INT64,
    client_id=INT64,
    direction=st.sampled_from(["up", "down"]),
    group=st.text(max_size=8),
    model_type=st.text(max_size=8),
    num_bytes=st.integers(0, 2**64 - 1),
)


@given(UPDATES)
def test_update_round_trip(update):
    assert wire.decode(wire.encode(update), update.size).tobytes() == update.tobytes()


@given(st.lists(ENTRIES, max_size=20))
def test_ledger_round_trip(entries):
    assert list(Ledger.from_bytes(Ledger(entries).to_bytes())) == sorted(entries)


@given(st.binary(max_size=200))
def test_random_bytes_give_only_wire_errors(data):
    with contextlib.suppress(WireError):
        assert wire.encode(wire.decode(data)) == data
    with contextlib.suppress(WireError):
        Ledger.from_bytes(data)


@given(UPDATES, st.data())
def test_one_changed_byte_is_always_noticed(update, data):
    message = bytearray(wire.encode(update))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        wire.decode(bytes(message))
    except WireError:
        return
    raise AssertionError("a damaged update was read")


@given(st.binary(min_size=24, max_size=24), st.binary(max_size=100), st.booleans())
def test_headers_with_a_right_checksum_cannot_ask_for_memory(signed, payload, looks_right):
    signed = b"HTUP\x01\x00\x01\x00" + signed[8:] if looks_right else signed
    checksum = xxhash.xxh3_64_intdigest(signed + payload).to_bytes(8, "little")
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):
            wire.decode(signed + checksum + bytes(4) + payload)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@given(st.lists(ENTRIES, max_size=5), st.data())
def test_damaged_ledgers_give_only_wire_errors(entries, data):
    message = bytearray(Ledger(entries).to_bytes())
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        Ledger.from_bytes(bytes(message))
