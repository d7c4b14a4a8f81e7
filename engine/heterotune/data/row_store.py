"""Where training rows are kept: in memory, or in files that are mapped, so that a corpus may be larger than memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from heterotune.data.client_rows import PartedRows, parted, starts_of
from heterotune.data.rows import Rows
from heterotune.data.tokenizing import Piece, join_pieces

_BLOCK_ROWS = 4096
_SCRATCH = "scratch"
TYPES = {"input_ids": np.int32, "targets": np.int32, "lengths": np.int64, "labels": np.int64}
"""Array of `Rows` -> how it is kept on disk; vocabularies are far below 2^31."""


class RowStore(Protocol):
    """Keeps rows, client after client."""

    def collect(self, pieces: Iterable[Piece]) -> Piece:
        """Bring all rows of one client together until those of the next are collected."""

    def keep(self, rows: Rows, picks: np.ndarray) -> None:
        """Keep some of them for good, as the next client's."""

    def kept(self) -> PartedRows:
        """Return what was kept, client after client."""


class MemoryRows:
    """Keeps rows in memory."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._kept: list[Rows] = []

    def collect(self, pieces: Iterable[Piece]) -> Piece:
        """Join a client's pieces."""
        return join_pieces(list(pieces), self._max_tokens)

    def keep(self, rows: Rows, picks: np.ndarray) -> None:
        """Copy the rows that were picked."""
        self._kept.append(rows.take(picks))

    def kept(self) -> PartedRows:
        """Return all clients' rows as one table."""
        return parted(self._kept)


class MappedRows:
    """Keeps rows in one file per array, client after client; in memory are the pages that the system keeps there."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._folder = folder
        self._max_tokens = max_tokens
        self._num_rows: list[int] = []
        for name in TYPES:
            (folder / name).touch()

    def collect(self, pieces: Iterable[Piece]) -> Piece:
        """Write a client's pieces to scratch files and map them."""
        scratch = self._folder / _SCRATCH
        scratch.mkdir(exist_ok=True)
        for name in TYPES:
            (scratch / name).write_bytes(b"")
        places, is_cut = [np.empty(0, np.int64)], [np.empty(0, bool)]
        for piece in pieces:
            _append(scratch, piece.rows)
            places.append(piece.places)
            is_cut.append(piece.is_cut)
        joined = np.concatenate(places)
        return Piece(open_rows(scratch, [len(joined)], self._max_tokens).rows, joined, np.concatenate(is_cut))

    def keep(self, rows: Rows, picks: np.ndarray) -> None:
        """Append the rows that were picked to the files."""
        for start in range(0, len(picks), _BLOCK_ROWS):
            _append(self._folder, rows.take(picks[start : start + _BLOCK_ROWS]))
        self._num_rows.append(len(picks))

    def kept(self) -> PartedRows:
        """Map the files."""
        return open_rows(self._folder, self._num_rows, self._max_tokens)

    def finish(self) -> None:
        """Remove what was only needed on the way."""
        for name in TYPES:
            (self._folder / _SCRATCH / name).unlink(missing_ok=True)
        if (self._folder / _SCRATCH).exists():
            (self._folder / _SCRATCH).rmdir()


def open_rows(folder: Path, num_rows: Sequence[int], max_tokens: int) -> PartedRows:
    """Map a folder's files, each once however many clients there are."""
    starts, arrays = starts_of(num_rows), {}
    for name, kind in TYPES.items():
        width = (max_tokens,) if name in ("input_ids", "targets") else ()
        arrays[name] = _mapped(folder / name, kind, (int(starts[-1]), *width))
    return PartedRows(Rows(**arrays), starts)


def _append(folder: Path, rows: Rows) -> None:
    for name, kind in TYPES.items():
        with (folder / name).open("ab") as file:
            file.write(np.ascontiguousarray(getattr(rows, name), dtype=kind).data)


def _mapped(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    if not shape[0]:
        return np.empty(shape, dtype=kind)  # an empty file cannot be mapped
    array = np.memmap(path, dtype=kind, mode="r", shape=shape)
    array._mmap.madvise(mmap.MADV_RANDOM)  # rows are drawn at random: what lies beside them is not read with them
    return array
