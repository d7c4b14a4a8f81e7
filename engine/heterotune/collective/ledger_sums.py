"""The ledger summed by any of its fields, in the memory of the sums and of one round's turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from heterotune.collective.ledger import Direction, LedgerEntry

Field = Literal["round", "client", "type", "direction", "group"]
FIELDS: tuple[Field, ...] = ("round", "client", "type", "direction", "group")
_ATTRIBUTES = {
    "round": "round_number",
    "client": "client_id",
    "type": "model_type",
    "direction": "direction",
    "group": "group",
}

Key = tuple[int | str, ...]
"""Values of the fields that are summed by, in their order."""


@dataclass
class LedgerSum:
    """What the entries of one key add up to.

    Attributes:
        num_messages: Entries.
        num_turns: Pairs of a client and a round in which it has entries here.
        num_bytes: Of all messages.
        full_model_bytes: What as many turns would take if the full model travelled instead, once in each direction
            that has entries here; 0 where that is not known.
    """

    num_messages: int = 0
    num_turns: int = 0
    num_bytes: int = 0
    full_model_bytes: int = 0

    @property
    def bytes_per_turn(self) -> float:
        """Mean bytes of one client in one round that it took part in; 0 where there was none."""
        return self.num_bytes / self.num_turns if self.num_turns else 0.0


class LedgerSums:
    """Sums of entries that come round after round; inside a round their order does not matter."""

    def __init__(self, by: Sequence[Field], full_model_bytes: Mapping[str, int] | None = None) -> None:
        """Begin with nothing.

        Args:
            by: Fields to sum by.
            full_model_bytes: Model type -> bytes of its full model; types that are missing count 0.
        """
        self.by = tuple(by)
        self._full_model_bytes = dict(full_model_bytes or {})
        self._sums: dict[Key, LedgerSum] = {}
        self._round_number = 0
        self._turns: set[tuple[Key, int]] = set()
        self._ways: set[tuple[Key, int, Direction]] = set()

    def add(self, entry: LedgerEntry) -> None:
        """Add one entry; its round is that of the entry before or a later one."""
        if entry.round_number != self._round_number:
            assert entry.round_number > self._round_number, "rounds come in order"
            self._round_number = entry.round_number
            self._turns.clear()
            self._ways.clear()
        key = tuple(getattr(entry, _ATTRIBUTES[name]) for name in self.by)
        found = self._sums.setdefault(key, LedgerSum())
        found.num_messages += 1
        found.num_bytes += entry.num_bytes
        if (key, entry.client_id) not in self._turns:
            self._turns.add((key, entry.client_id))
            found.num_turns += 1
        if (key, entry.client_id, entry.direction) not in self._ways:
            self._ways.add((key, entry.client_id, entry.direction))
            found.full_model_bytes += self._full_model_bytes.get(entry.model_type, 0)

    def of(self, *key: int | str) -> LedgerSum:
        """Return the sum of a key, of nothing if it has no entries."""
        return self._sums.get(key, LedgerSum())

    def rows(self) -> list[tuple[Key, LedgerSum]]:
        """Return all sums in the order of their keys."""
        return sorted(self._sums.items(), key=lambda row: row[0])

    def state(self) -> list[list[int | str]]:
        """Return the sums after a whole round, as `restore` takes them; fits into JSON."""
        return [
            [*key, each.num_messages, each.num_turns, each.num_bytes, each.full_model_bytes]
            for key, each in self.rows()
        ]

    def restore(self, state: Iterable[Sequence[int | str]]) -> None:
        """Go on from what `state` returned."""
        width = len(self.by)
        self._sums = {tuple(row[:width]): LedgerSum(*(int(number) for number in row[width:])) for row in state}
