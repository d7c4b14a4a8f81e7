"""Held-out rows: of single clients, of a pool that nobody trains on, or of another source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.data.corpus import Corpus
from heterotune.data.document import Document
from heterotune.data.facts import Facts
from heterotune.data.rows import Rows, concatenate_rows
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import join_pieces, tokenise
from heterotune.errors import DataError
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

NOBODY = -1


@dataclass(frozen=True)
class Heldout:
    """Held-out rows with the document and the client of each; -1 = the whole fleet's."""

    rows: Rows
    documents: tuple[Document, ...]
    clients: np.ndarray

    def first(self, count: int) -> Heldout:
        """Return the first rows."""
        return Heldout(self.rows.take(np.arange(count)), self.documents[:count], self.clients[:count])


def pool_split(facts: Facts, data: DataConfig, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents that clients get and those of the held-out pool, int64 numbers in corpus order.

    Raises:
        DataError: If a pool is wanted and there are not two documents.
    """
    num_documents = len(facts)
    if data.heldout != "pool":
        return np.arange(num_documents), np.arange(0)
    if num_documents < 2:
        raise DataError(f"data.heldout = pool needs two documents, and the corpus has {num_documents}. Use more text.")
    order = generator(run_seed, NO_ROUND, NO_CLIENT, "heldout pool").permutation(num_documents)
    num_heldout = max(1, round(data.heldout_fraction * num_documents))
    return np.sort(order[num_heldout:]), np.sort(order[:num_heldout])


def rows_of_everybody(
    corpus: Corpus,
    numbers: np.ndarray,
    data: DataConfig,
    tokenizer: TextTokenizer,
    label_names: Sequence[str],
    max_rows: int,
    run_seed: int,
) -> Heldout:
    """Tokenise documents of the whole fleet, in an order drawn by the seed, until there are `max_rows`."""
    order = generator(run_seed, NO_ROUND, NO_CLIENT, "heldout rows").permutation(len(numbers))
    numbers = numbers[order]
    pieces = tokenise(
        corpus.read(numbers),
        tokenizer,
        max_tokens=data.max_tokens,
        max_rows=max_rows,
        label_names=label_names,
        loss=data.loss,
    )
    piece = join_pieces(list(pieces), data.max_tokens)
    documents = tuple(corpus.read(numbers[piece.places]))
    return Heldout(piece.rows, documents, np.full(len(documents), NOBODY, dtype=np.int64))


def with_owners(heldout: Heldout, keys: Sequence[Sequence[str]]) -> Heldout:
    """Give each row to the client that holds its document's owner, where one does."""
    client_of = {key: client_id for client_id, own in enumerate(keys) for key in own}
    clients = np.array([client_of.get(document.key, NOBODY) for document in heldout.documents], dtype=np.int64)
    return replace(heldout, clients=clients)


def spread(heldout: Sequence[Heldout], max_rows: int) -> Heldout:
    """Take held-out rows in turns, one from each client, until `max_rows` are taken; return them in client order."""
    turns = sorted((turn, client_id) for client_id, own in enumerate(heldout) for turn in range(len(own.rows)))
    taken = np.array([client_id for _, client_id in turns[:max_rows]], dtype=np.int64)
    num_taken = np.bincount(taken, minlength=len(heldout))
    parts = [own.first(count) for own, count in zip(heldout, num_taken.tolist(), strict=True)]
    return Heldout(
        concatenate_rows([part.rows for part in parts]),
        tuple(document for part in parts for document in part.documents),
        np.concatenate([part.clients for part in parts]),
    )
