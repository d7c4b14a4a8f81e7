"""What data.json says: how many rows, owners and labels each client holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.plain_files import read_small_text

_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class ClientData:
    """One client's data.

    Attributes:
        client_id: The client.
        model_type: Its model type.
        train_rows: Rows that it trains on.
        heldout_rows: Rows that it is scored on.
        owners: Key of the partition -> rows.
        labels: Label -> rows; empty where rows have none.
    """

    client_id: int
    model_type: str
    train_rows: int
    heldout_rows: int
    owners: Mapping[str, int]
    labels: Mapping[str, int]

    @property
    def kinds(self) -> Mapping[str, int]:
        """Labels where there are any, else owners."""
        return self.labels or self.owners


def read_data(path: Path) -> tuple[str, list[ClientData]]:
    """Return the digest of a federation's data and its clients.

    Raises:
        ValueError: If the file is not of this form.
        OSError: If it cannot be read.
    """
    content = json.loads(read_small_text(path, _MAX_BYTES))
    if not isinstance(content, dict) or not isinstance(content.get("clients"), list):
        raise ValueError("it has no list of clients")
    return str(content.get("digest", "")), [_client(each) for each in content["clients"]]


def kinds_by_rows(clients: list[ClientData]) -> list[str]:
    """Return labels or owners, those with most rows first."""
    total: Counter[str] = Counter()
    for client in clients:
        total.update(client.kinds)
    return [name for name, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))]


def _client(entry: Any) -> ClientData:
    if not isinstance(entry, dict):
        raise ValueError("a client is no JSON object")
    counts = [entry.get(name, 0) for name in ("client", "train_rows", "heldout_rows")]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"client {entry.get('client')!r:.40} has a count that is no whole number of at least 0")
    client_id, train_rows, heldout_rows = counts
    owners, labels = (_rows_of(entry, name) for name in ("owners", "labels"))
    return ClientData(client_id, str(entry.get("model_type", "")), train_rows, heldout_rows, owners, labels)


def _rows_of(entry: Mapping[str, Any], name: str) -> dict[str, int]:
    rows = entry.get(name) or {}
    if not isinstance(rows, dict) or not all(type(count) is int and count >= 0 for count in rows.values()):
        raise ValueError(f"client {entry.get('client')!r:.40}: {name} are not counts of rows")
    return rows
