"""The training rows of every client, by client id: parts of one table, or draws from it; nothing is kept per client."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from heterotune.data.holdings import Holding
from heterotune.data.rows import Rows, concatenate_rows


class ClientRows(Protocol):
    """Rows of client 0, 1, ...; iterating goes through all clients.

    Attributes:
        num_rows: Rows of each client, int64 (N,).
    """

    num_rows: np.ndarray

    def __len__(self) -> int:
        """Return the number of clients."""

    def __getitem__(self, client_id: int) -> Rows:
        """Return a client's rows."""

    def held(self) -> tuple[Rows, ...]:
        """Return what is in memory, or mapped, for all clients together."""

    def digest_parts(self) -> Iterator[tuple[bytes, Rows]]:
        """Yield all rows, with what else a digest must see before each part: whose they are."""

    def pooled(self, client_ids: Sequence[int]) -> Rows:
        """Return the rows of clients who train in one place."""


@dataclass(frozen=True, eq=False)
class PartedRows:
    """A table that is cut into clients' parts; a part is a view.

    Attributes:
        rows: All rows, client after client.
        starts: First row of each client, and after the last one the number of rows, int64 (N + 1,).
    """

    rows: Rows
    starts: np.ndarray

    @cached_property
    def num_rows(self) -> np.ndarray:
        """Rows of each client, int64 (N,)."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, client_id: int) -> Rows:
        place = range(len(self))[client_id]
        part = slice(int(self.starts[place]), int(self.starts[place + 1]))
        rows = self.rows
        return Rows(rows.input_ids[part], rows.targets[part], rows.lengths[part], rows.labels[part])

    def held(self) -> tuple[Rows, ...]:
        """Return the table."""
        return (self.rows,)

    def digest_parts(self) -> Iterator[tuple[bytes, Rows]]:
        """Yield client after client."""
        return _by_client(self)

    def pooled(self, client_ids: Sequence[int]) -> Rows:
        """Return clients' rows, one client's after the other's."""
        return concatenate_rows([self[client_id] for client_id in client_ids])


def parted(parts: Sequence[Rows]) -> PartedRows:
    """Return clients' rows as one table; at least one client."""
    return PartedRows(concatenate_rows(parts), starts_of([len(part) for part in parts]))


def starts_of(num_rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where clients' parts begin and end, of so many rows each."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.asarray(num_rows, dtype=np.int64))])


@dataclass(frozen=True, eq=False)
class RowsOfTypes:
    """Rows of a fleet whose model types have tokenizers of their own: a client's are in its type's tokens.

    Attributes:
        views: All clients' rows in each model type's tokens.
        bounds: First client of each model type, and after the last one the number of clients.
    """

    views: tuple[ClientRows, ...]
    bounds: tuple[int, ...]

    @cached_property
    def num_rows(self) -> np.ndarray:
        """Rows of each client, int64 (N,)."""
        ends = zip(self.views, self.bounds, self.bounds[1:], strict=False)
        return np.concatenate([view.num_rows[first:end] for view, first, end in ends])

    def __len__(self) -> int:
        return self.bounds[-1]

    def __getitem__(self, client_id: int) -> Rows:
        return self._view(client_id)[client_id]

    def held(self) -> tuple[Rows, ...]:
        """Return the tables of all types, each once."""
        return tuple({id(rows): rows for view in self.views for rows in view.held()}.values())

    def digest_parts(self) -> Iterator[tuple[bytes, Rows]]:
        """Yield client after client where types hold parts, else every type's table."""
        if all(isinstance(view, PartedRows) for view in self.views):
            yield from _by_client(self)
            return
        for first, view in zip(self.bounds, self.views, strict=False):
            yield from ((b"from client %d: %s" % (first, mark), rows) for mark, rows in view.digest_parts())

    def pooled(self, client_ids: Sequence[int]) -> Rows:
        """Return the rows of clients of one model type."""
        return self._view(client_ids[0]).pooled(client_ids)

    def holding_of(self, client_id: int) -> Holding:
        """Return what a client holds, where rows are drawn."""
        return self._view(client_id).holding_of(client_id)

    def _view(self, client_id: int) -> ClientRows:
        place = range(len(self))[client_id]
        return self.views[bisect_right(self.bounds, place) - 1]


def _by_client(rows_of: ClientRows) -> Iterator[tuple[bytes, Rows]]:
    return ((b"%d rows\n" % len(rows), rows) for rows in rows_of)
