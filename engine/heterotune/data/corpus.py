"""A corpus as a partition sees it: documents by number, in memory or read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.data.corpora import TableReader, load_corpus, open_tables, shown_source
from heterotune.data.document import Document
from heterotune.data.facts import Facts, FactsWriter, facts_of
from heterotune.errors import DataError

_PORTION = 512  # documents that are read at once


class Corpus(Protocol):
    """Documents by number."""

    facts: Facts

    def read(self, numbers: np.ndarray) -> Iterator[Document]:
        """Yield documents in the order of `numbers`, int64."""


@dataclass(frozen=True)
class MemoryCorpus:
    """All documents in memory."""

    documents: Sequence[Document]
    facts: Facts

    def read(self, numbers: np.ndarray) -> Iterator[Document]:
        """Yield documents in the order of `numbers`."""
        return (self.documents[number] for number in numbers.tolist())


@dataclass(frozen=True)
class MappedCorpus:
    """Documents that stay in the files which `datasets` maps.

    Attributes:
        readers: The tables.
        table_of: Table of each document, int32 (N,).
        row_of: Row in that table, int64 (N,).
        facts: What is known of each document.
    """

    readers: Sequence[TableReader]
    table_of: np.ndarray
    row_of: np.ndarray
    facts: Facts

    def read(self, numbers: np.ndarray) -> Iterator[Document]:
        """Yield documents in the order of `numbers`, a portion of them in memory at a time."""
        for start in range(0, len(numbers), _PORTION):
            portion = numbers[start : start + _PORTION]
            found: list[Document | None] = [None] * len(portion)
            for table in np.unique(self.table_of[portion]).tolist():
                places = np.flatnonzero(self.table_of[portion] == table)
                reader = self.readers[table]
                documents = reader.format.documents(reader.table, self.row_of[portion[places]].tolist())
                for place, document in zip(places.tolist(), documents, strict=True):
                    found[place] = document
            yield from (document for document in found if document is not None)


def open_corpus(config: DataConfig) -> Corpus:
    """Open the clients' documents: in memory, or mapped under `data.streaming`.

    Raises:
        DataError: As `load_corpus`.
    """
    if not config.streaming:
        return in_memory(load_corpus(config))
    readers = open_tables(config)
    facts, tables, rows = FactsWriter(), [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for number, reader in enumerate(readers):
        first_row = 0
        for portion in reader.documents():
            held = [place for place, document in enumerate(portion) if document is not None]
            facts.add([document for document in portion if document is not None])
            rows.append(np.array(held, dtype=np.int64) + first_row)
            tables.append(np.full(len(held), number, dtype=np.int32))
            first_row += len(portion)
    if not len(np.concatenate(rows)):
        raise DataError(f"data.source = {shown_source(config.sources)}: the corpus is empty; no row has text.")
    return MappedCorpus(readers, np.concatenate(tables), np.concatenate(rows), facts.facts())


def in_memory(documents: Sequence[Document]) -> MemoryCorpus:
    """Return documents that are in memory as a corpus."""
    return MemoryCorpus(documents, facts_of(documents))
