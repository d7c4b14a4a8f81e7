"""Sums over ledger entries against sums written out by hand."""

from __future__ import annotations

import itertools
import json

import pytest

from heterotune.collective.ledger import LedgerEntry
from heterotune.collective.ledger_sums import FIELDS, LedgerSum, LedgerSums

ENTRIES = [
    LedgerEntry(1, 5, "down", "head", "small", 7),
    LedgerEntry(1, 5, "up", "head", "small", 50),
    LedgerEntry(1, 5, "up", "layers", "small", 30),
    LedgerEntry(1, 7, "down", "layers", "large", 36),
    LedgerEntry(1, 7, "up", "layers", "large", 2**40),
    LedgerEntry(2, 5, "up", "head", "small", 100),
    LedgerEntry(3, 5, "up", "head", "small", 100),
]
FULL = {"small": 1000, "large": 2**50}


def sums(*by: str, entries=ENTRIES, full=FULL) -> LedgerSums:
    found = LedgerSums(by, full)
    for entry in entries:
        found.add(entry)
    return found


def test_by_type_and_direction():
    assert sums("type", "direction").rows() == [
        (("large", "down"), LedgerSum(1, 1, 36, 2**50)),
        (("large", "up"), LedgerSum(1, 1, 2**40, 2**50)),
        (("small", "down"), LedgerSum(1, 1, 7, 1000)),
        (("small", "up"), LedgerSum(4, 3, 280, 3000)),
    ]
    assert sums("type", "direction").of("small", "up").bytes_per_turn == 280 / 3
    assert sums("type", "direction").of("tiny", "up").bytes_per_turn == 0.0


def test_by_nothing_a_turn_counts_once_and_the_full_model_once_each_way():
    assert sums().rows() == [((), LedgerSum(7, 4, 323 + 2**40, 4 * 1000 + 2 * 2**50))]
    assert sums(full=None).of().full_model_bytes == 0


def test_by_round_and_group():
    assert [(key, each.num_bytes, each.num_turns) for key, each in sums("round", "group").rows()] == [
        ((1, "head"), 57, 1),
        ((1, "layers"), 66 + 2**40, 2),
        ((2, "head"), 100, 1),
        ((3, "head"), 100, 1),
    ]


@pytest.mark.parametrize("by", [by for size in range(6) for by in itertools.combinations(FIELDS, size)])
def test_every_way_adds_up_to_the_same(by):
    rows = sums(*by).rows()
    assert sum(each.num_bytes for _, each in rows) == 323 + 2**40
    assert sum(each.num_messages for _, each in rows) == 7
    assert all(len(key) == len(by) for key, _ in rows)


def test_sums_go_on_where_they_were_saved():
    before, after = sums("type", "direction", entries=ENTRIES[:5]), LedgerSums(("type", "direction"), FULL)
    after.restore(json.loads(json.dumps(before.state())))
    for entry in ENTRIES[5:]:
        after.add(entry)
    assert after.rows() == sums("type", "direction").rows()


def test_memory_does_not_grow_with_rounds():
    found = LedgerSums(("type", "direction"))
    for round_number in range(1, 50):
        for client_id in range(8):
            found.add(LedgerEntry(round_number, client_id, "up", "head", "small", 1))
    assert len(found._sums) == 1 and len(found._turns) == len(found._ways) == 8
    assert found.of("small", "up") == LedgerSum(392, 392, 392, 0)


def test_rounds_come_in_order():
    with pytest.raises(AssertionError, match="rounds come in order"):
        sums(entries=ENTRIES[::-1])
