import struct

import pytest

from heterotune.collective.ledger import Ledger, LedgerEntry
from heterotune.errors import WireError

ENTRIES = [
    LedgerEntry(2, 5, "up", "head", "small", 100),
    LedgerEntry(1, 7, "up", "layers", "large", 2**40),
    LedgerEntry(1, 7, "down", "layers", "large", 36),
    LedgerEntry(1, 5, "up", "head", "small", 50),
    LedgerEntry(1, 5, "up", "layers", "small", 30),
]


def message(words: bytes, *entries: bytes, num_entries: int | None = None) -> bytes:
    head = struct.pack("<4sII", b"HTLG", len(words), len(entries) if num_entries is None else num_entries)
    return head + words + b"".join(entries)


def test_order_is_by_round_client_direction_group():
    assert [(entry.round_number, entry.client_id, entry.direction, entry.group) for entry in Ledger(ENTRIES)] == [
        (1, 5, "up", "head"),
        (1, 5, "up", "layers"),
        (1, 7, "down", "layers"),
        (1, 7, "up", "layers"),
        (2, 5, "up", "head"),
    ]


def test_a_record_is_a_line_of_the_run_folder():
    ledger = Ledger()
    ledger.add(round_number=3, client_id=17, model_type="small", direction="up", group="dema.core", num_bytes=4128)
    line = {"round": 3, "client": 17, "model_type": "small", "direction": "up", "group": "dema.core", "bytes": 4128}
    assert ledger.records() == [line]


def test_travels_and_merges():
    first, second = Ledger(ENTRIES[:2]), Ledger(ENTRIES[2:])
    merged = Ledger()
    for part in (second, first, Ledger()):
        merged.merge(Ledger.from_bytes(part.to_bytes()))
    assert list(merged) == sorted(ENTRIES)
    assert merged.to_bytes() == Ledger(ENTRIES).to_bytes()


def test_drain_begins_again():
    ledger = Ledger(ENTRIES)
    assert len(ledger.drain()) == 5
    assert len(ledger) == 0


def test_a_direction_is_up_or_down():
    with pytest.raises(AssertionError, match="sideways"):
        Ledger().add(round_number=0, client_id=0, model_type="m", direction="sideways", group="g", num_bytes=1)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "at least 12 bytes, got 0"),
        (Ledger(ENTRIES).to_bytes()[:-1], "not a whole ledger: .* begin with b'HTLG', expected"),
        (Ledger(ENTRIES).to_bytes() + b"\0", "not a whole ledger"),
        (b"HTUP" + Ledger(ENTRIES).to_bytes()[4:], "not a whole ledger: .* begin with b'HTUP'"),
        (message(b"[]", num_entries=2**32 - 1), "not a whole ledger"),
        (message(b"[}"), "table of words is unreadable"),
        (message(b"\xff\xfe\xfd"), "table of words is unreadable"),
        (message(b"[" * 100_000), "table of words is unreadable"),
        (message(b"[1]"), "not a list of words"),
        (message(b'"a"'), "not a list of words"),
        (message(b'["a"]', struct.pack("<qqHBHQ", 4, 9, 1, 0, 0, 1)), "client 9 in round 4 names a word"),
        (message(b'["a"]', struct.pack("<qqHBHQ", 4, 9, 0, 0, 1, 1)), "client 9 in round 4 names a word"),
        (message(b'["a"]', struct.pack("<qqHBHQ", 4, 9, 0, 2, 0, 1)), "client 9 in round 4 names a word or direction"),
    ],
)
def test_bytes_that_are_no_ledger_are_refused(data, error):
    with pytest.raises(WireError, match=error):
        Ledger.from_bytes(data)
