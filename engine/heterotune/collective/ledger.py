"""The record of every byte that a client sends or gets. Numbers come from real messages, never from a formula."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from heterotune.errors import WireError

Direction = Literal["down", "up"]
_DIRECTIONS: tuple[Direction, ...] = ("down", "up")

MAGIC = b"HTLG"
_HEAD = struct.Struct("<4sII")  # magic, bytes of the JSON list of words, number of entries
_ENTRY = struct.Struct("<qqHBHQ")  # round, client, model type (word), direction, group (word), bytes


@dataclass(frozen=True, order=True)
class LedgerEntry:
    """One message: what one client sent ("up") or got ("down") for one tensor group in one round."""

    round_number: int
    client_id: int
    direction: Direction
    group: str
    model_type: str
    num_bytes: int
    """Header and payload."""

    def record(self) -> dict[str, int | str]:
        """Return the entry as a line of `ledger.jsonl`."""
        return {
            "round": self.round_number,
            "client": self.client_id,
            "model_type": self.model_type,
            "direction": self.direction,
            "group": self.group,
            "bytes": self.num_bytes,
        }


class Ledger:
    """Entries of one rank, or of all after `merge`. Iterating gives them in one order, whoever added them and when."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        self._entries = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[LedgerEntry]:
        """Go through the entries by round, client, direction and group."""
        return iter(sorted(self._entries))

    def add(
        self, *, round_number: int, client_id: int, model_type: str, direction: Direction, group: str, num_bytes: int
    ) -> None:
        """Note one message."""
        assert direction in _DIRECTIONS, direction
        self._entries.append(LedgerEntry(round_number, client_id, direction, group, model_type, num_bytes))

    def merge(self, other: Ledger) -> None:
        """Take over the other's entries; the other keeps them."""
        self._entries.extend(other._entries)

    def drain(self) -> Ledger:
        """Return all entries as a ledger of their own and begin again with none."""
        drained = Ledger(self._entries)
        self._entries = []
        return drained

    def records(self) -> list[dict[str, int | str]]:
        """Return the lines of `ledger.jsonl`, in the ledger's order."""
        return [entry.record() for entry in self]

    def to_bytes(self) -> bytes:
        """Return the ledger for a gather: a table of words, then 29 bytes an entry, in the ledger's order."""
        entries = list(self)
        words = sorted({word for entry in entries for word in (entry.model_type, entry.group)})
        numbers = {word: number for number, word in enumerate(words)}
        table = json.dumps(words).encode()
        packed = (
            _ENTRY.pack(
                entry.round_number,
                entry.client_id,
                numbers[entry.model_type],
                _DIRECTIONS.index(entry.direction),
                numbers[entry.group],
                entry.num_bytes,
            )
            for entry in entries
        )
        return b"".join((_HEAD.pack(MAGIC, len(table), len(entries)), table, *packed))

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        """Read what `to_bytes` wrote.

        Raises:
            WireError: If the bytes are anything else.
        """
        if len(data) < _HEAD.size:
            raise WireError(f"a ledger has at least {_HEAD.size} bytes, got {len(data)}")
        magic, table_bytes, num_entries = _HEAD.unpack_from(data)
        expected_bytes = _HEAD.size + table_bytes + num_entries * _ENTRY.size
        if magic != MAGIC or len(data) != expected_bytes:
            raise WireError(
                f"not a whole ledger: {len(data)} bytes that begin with {bytes(data[:4])!r}, expected {expected_bytes}"
            )
        words = _read_words(data[_HEAD.size : _HEAD.size + table_bytes])
        return cls(_read_entry(row, words) for row in _ENTRY.iter_unpack(data[_HEAD.size + table_bytes :]))


def _read_words(table: bytes) -> list[str]:
    """Return the ledger's table of words."""
    try:
        words = json.loads(table)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the ledger's table of words is unreadable: {error}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise WireError("the ledger's table of words is not a list of words")
    return words


def _read_entry(row: tuple[int, ...], words: list[str]) -> LedgerEntry:
    """Return one entry of a ledger."""
    round_number, client_id, model_type, direction, group, num_bytes = row
    if max(model_type, group) >= len(words) or direction >= len(_DIRECTIONS):
        raise WireError(
            f"a ledger entry of client {client_id} in round {round_number} names a word or direction that is not there"
        )
    return LedgerEntry(round_number, client_id, _DIRECTIONS[direction], words[group], words[model_type], num_bytes)
