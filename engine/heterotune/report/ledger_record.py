"""What ledger.jsonl says, summed as far as a report draws it: bytes by round and model type, turns by client."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from heterotune.collective.ledger_sums import LedgerSums
from heterotune.errors import RecordError
from heterotune.report.records import read_ledger


@dataclass
class LedgerRecord:
    """Sums of one strategy's ledger.

    Attributes:
        sums: By model type and direction, as in a run's summary.
        round_bytes: (model type, direction) -> round -> bytes of all its clients.
        turns: Model type -> client -> rounds in which it had messages.
        missing: What could not be read, as sentences.
    """

    sums: LedgerSums = field(default_factory=lambda: LedgerSums(("type", "direction")))
    round_bytes: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    turns: dict[str, dict[int, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def bytes_per_turn(self, model_type: str, direction: str) -> float | None:
        """Return the mean bytes of a client in a round; None if there is no message."""
        return self.sums.of(model_type, direction).bytes_per_turn or None

    def cumulative(self, model_type: str | None = None) -> list[tuple[int, int]]:
        """Return (round, bytes of all rounds so far, up and down) of a model type, None = of all, by round."""
        by_round: dict[int, int] = defaultdict(int)
        for (name, _), rounds in self.round_bytes.items():
            if model_type in (None, name):
                for round_number, num_bytes in rounds.items():
                    by_round[round_number] += num_bytes
        total, points = 0, []
        for round_number, num_bytes in sorted(by_round.items()):
            total += num_bytes
            points.append((round_number, total))
        return points


def read_ledger_record(path: Path) -> LedgerRecord:
    """Read a ledger.jsonl line by line; what comes after a damaged line is left out, and said."""
    record = LedgerRecord()
    last_turn: dict[int, int] = {}
    try:
        for entry in read_ledger(path, record.missing.append):
            record.sums.add(entry)
            rounds = record.round_bytes.setdefault((entry.model_type, entry.direction), {})
            rounds[entry.round_number] = rounds.get(entry.round_number, 0) + entry.num_bytes
            if last_turn.get(entry.client_id) != entry.round_number:
                last_turn[entry.client_id] = entry.round_number
                turns = record.turns.setdefault(entry.model_type, {})
                turns[entry.client_id] = turns.get(entry.client_id, 0) + 1
    except RecordError as error:
        record.missing.append(str(error))
    return record
