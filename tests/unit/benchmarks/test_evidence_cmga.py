"""The fleets of the table about conflicts on real queries: who calls what by which name."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
WORDS = {"banking": " bank", "home": " home", "meta": " name", "travel": " travel", "work": " work"}


@pytest.fixture(scope="module")
def table() -> Iterator[ModuleType]:
    """The script; it imports others by bare names, so they are forgotten afterwards."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "tools" / "experiments"), str(ROOT / "tools" / "benchmarks")]
    yield importlib.import_module("evidence_cmga")
    sys.path[:] = before
    for name in {name for name in set(sys.modules) - known if name.startswith(("evidence_", "grid_", "forked_"))}:
        sys.modules.pop(name)


def test_one_side_of_four_calls_two_pairs_of_labels_by_each_others_names(table):
    rows = [(f"{label} {turn}", label) for turn in range(8) for label in WORDS]
    written = list(table._train_rows("partly", rows, WORDS))
    assert Counter(row["side"] for row in written) == {"plain": 30, "opposed": 10}
    names = {
        side: {r["text"].split()[0]: r["label"] for r in written if r["side"] == side} for side in ("plain", "opposed")
    }
    assert names["plain"] == WORDS
    assert names["opposed"] == WORDS | {"banking": " travel", "travel": " bank", "home": " work", "work": " home"}
    assert {row["side"] for row in table._train_rows("dominated", rows, WORDS)} == {"plain"}


def test_each_domain_has_one_other_name(table):
    names = [name for pair in table.PAIRS for name in pair]
    assert len(set(names)) == len(names) == 10 and set(table.RARE) < set(names)


def test_any_first_part_of_the_drawn_rows_is_balanced(table):
    rows = [(str(number), "many" if number % 4 else "few") for number in range(40)]
    drawn = table._drawn(rows, 3)
    assert sorted(drawn) == sorted(rows) and drawn != table._drawn(rows, 4)
    assert Counter(label for _, label in drawn[:12]) == {"many": 6, "few": 6}
