"""The rows of every client, and the held-out rows on which the fleet is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.client_rows import ClientRows
from heterotune.data.corpora import load_public, load_test
from heterotune.data.corpus import Corpus, in_memory, open_corpus
from heterotune.data.document import Document
from heterotune.data.drawn_rows import DrawnRows, drawn_sizes, pool_facts
from heterotune.data.facts import Facts
from heterotune.data.heldout import Heldout, pool_split, rows_of_everybody, spread, with_owners
from heterotune.data.holdings import Holding, holding
from heterotune.data.partition import partition
from heterotune.data.row_store import MemoryRows, RowStore
from heterotune.data.rows import Rows
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import Piece, before_answers, make_rows, tokenise
from heterotune.errors import DataError
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_NAMED_CLIENTS = 8


@dataclass(frozen=True)
class FederatedData:
    """Who holds what.

    Attributes:
        train: Training rows of every client, by its id; a dropped client has none.
        heldout: Held-out rows, at most `evaluate.max_rows`, an equal share from every client that has enough.
        heldout_clients: Which client each held-out row is from, int64 (N,); -1 = nobody's (the whole fleet's).
        keys: For each client the natural owners of its documents, sorted; empty where rows are drawn.
        dropped: Clients without rows, under `data.empty_client: drop`.
        heldout_documents: The document of each held-out row; of text, the one in which the row begins.
        label_names: The classes of classification, which `Rows.labels` counts from 0; empty if there are none.
        holdings: What each client holds, in numbers; empty where rows are drawn, see `holding_of`.
        known_digest: The digest of all rows, if it was stored with them; else "".
    """

    train: ClientRows
    heldout: Rows
    heldout_clients: np.ndarray
    keys: tuple[tuple[str, ...], ...]
    dropped: tuple[int, ...]
    heldout_documents: tuple[Document, ...] = ()
    label_names: tuple[str, ...] = ()
    holdings: tuple[Holding, ...] = ()
    known_digest: str = ""

    def holding_of(self, client_id: int) -> Holding:
        """Return what a client holds; counted now where rows are drawn."""
        return self.holdings[client_id] if self.holdings else self.train.holding_of(client_id)


def build_federated_data(
    data: DataConfig,
    evaluate: EvaluateConfig,
    tokenizer: TextTokenizer,
    num_clients: int,
    *,
    run_seed: int,
    type_of_client: Sequence[str] = (),
    store: RowStore | None = None,
) -> FederatedData:
    """Load, divide and tokenise the corpus.

    A client's rows come from its documents in an order drawn by the seed, as far as `max_rows_per_client` lets it; a
    random `heldout_fraction` of the rows is held out, at least one row if the client has two. With `heldout: pool` the
    share is taken of all documents before they are divided; with `test` it is another source's, and belongs to the
    client that holds its owner under `partition.by: natural`, else to nobody.

    Args:
        data: Section `data`.
        evaluate: Section `evaluate`.
        tokenizer: The fleet's tokenizer.
        num_clients: Clients of the whole fleet.
        run_seed: The run's seed.
        type_of_client: Name of each client's model type.
        store: Keeps the training rows; None = in memory.

    Raises:
        DataError: If the corpus is missing or empty, a client has no rows and the policy is `error`, or nothing is left
            to evaluate on.
    """
    corpus = open_corpus(data)
    taken, pool = pool_split(corpus.facts, data, run_seed)
    store = store or MemoryRows(data.max_tokens)
    building = _Building(data, evaluate, tokenizer, corpus, store, run_seed)
    if data.partition.by == "drawn":
        return building.drawn(taken, pool, num_clients)
    facts = corpus.facts.take(taken)
    parts = partition(facts, num_clients, data.partition, seed=run_seed, type_of_client=type_of_client)
    parts = tuple(taken[part] for part in parts)
    empty = tuple(client_id for client_id, part in enumerate(parts) if not len(part))
    if empty and data.empty_client == "error":  # before the others are tokenised
        raise DataError(_empty_message(empty, parts, corpus.facts, data))
    clients = [building.client(client_id, part) for client_id, part in enumerate(parts)]
    train = store.kept()
    dropped = tuple(np.flatnonzero(train.num_rows == 0).tolist())
    if dropped and (data.empty_client == "error" or len(dropped) == num_clients):
        raise DataError(_empty_message(dropped, parts, corpus.facts, data))
    keys = tuple(corpus.facts.keys.present(part) for part in parts)
    heldout = building.of_everybody(pool, keys)
    heldout = heldout or spread([client.heldout for client in clients], evaluate.max_rows)
    if not len(heldout.rows):
        raise DataError(
            "No client has two rows or more, so none can be held out for evaluation. Use more text, or fewer clients."
        )
    return FederatedData(
        train=train,
        heldout=heldout.rows,
        heldout_clients=heldout.clients,
        keys=keys,
        dropped=dropped,
        heldout_documents=heldout.documents,
        label_names=corpus.facts.class_names,
        holdings=tuple(client.holding for client in clients),
    )


def build_public_rows(
    data: DataConfig,
    tokenizer: TextTokenizer,
    *,
    num_tokens: int,
    run_seed: int,
    positions: Literal["all", "answer"] = "all",
) -> Rows:
    """Tokenise public documents, drawn by the seed, until `num_tokens` targets are there or the text ends.

    Args:
        data: Section `data`.
        tokenizer: The fleet's tokenizer.
        num_tokens: Targets that are wanted.
        run_seed: The run's seed.
        positions: Which targets count: all, or of each prompt the one where its answer begins.

    Raises:
        DataError: If the public text is missing or empty, or has no prompts whose answers could begin.
    """
    documents = load_public(data, as_questions=positions == "answer")
    order = generator(run_seed, NO_ROUND, NO_CLIENT, "public rows").permutation(len(documents))
    shuffled = [documents[i] for i in order]
    max_rows = -(-num_tokens // data.max_tokens)
    while True:
        rows = make_rows(shuffled, tokenizer, max_tokens=data.max_tokens, max_rows=max_rows)
        rows = before_answers(rows) if positions == "answer" else rows
        num_targets = int((rows.targets >= 0).sum())
        if num_targets >= num_tokens or len(rows) < max_rows:
            return rows
        max_rows *= 2  # rows with few targets each: short texts, or responses


@dataclass(frozen=True)
class _ClientData:
    heldout: Heldout
    holding: Holding


@dataclass(frozen=True)
class _Building:
    """What all clients' rows are made with."""

    data: DataConfig
    evaluate: EvaluateConfig
    tokenizer: TextTokenizer
    corpus: Corpus
    store: RowStore
    run_seed: int

    def drawn(self, taken: np.ndarray, pool: np.ndarray, num_clients: int) -> FederatedData:
        """Tokenise all documents as a pool of rows from which clients draw."""
        piece = self._piece(taken, max_rows=None)
        self.store.keep(piece.rows, np.arange(len(piece.rows)))
        config, facts = self.data.partition, pool_facts(piece, taken, self.corpus.facts)
        num_rows = drawn_sizes(config, num_clients, run_seed=self.run_seed)
        train = DrawnRows(self.store.kept().rows, facts, num_rows, config, self.run_seed)
        heldout = self.of_everybody(pool, ())
        assert heldout is not None, "config checks that rows are held out for everybody"
        names = self.corpus.facts.class_names
        return FederatedData(train, heldout.rows, heldout.clients, (), (), heldout.documents, names)

    def client(self, client_id: int, part: np.ndarray) -> _ClientData:
        """Tokenise a client's documents and take its held-out rows away; what remains is kept."""
        order = generator(self.run_seed, NO_ROUND, client_id, "documents").permutation(len(part)) if len(part) else []
        numbers = part[np.asarray(order, dtype=np.int64)]
        piece = self._piece(numbers, max_rows=self._max_rows())
        train, heldout = self._split(len(piece.rows), client_id)
        self.store.keep(piece.rows, train)
        mine = self._heldout(piece, heldout, numbers, client_id)
        return _ClientData(mine, holding(piece, train, numbers, self.corpus.facts))

    def of_everybody(self, pool: np.ndarray, keys: Sequence[Sequence[str]]) -> Heldout | None:
        """Return the held-out rows of the whole fleet; None if every client has its own."""
        if self.data.test is not None:
            corpus: Corpus = in_memory(load_test(self.data))
            pool = np.arange(len(corpus.facts))
        elif self.data.heldout == "pool":
            corpus = self.corpus
        else:
            return None
        heldout = rows_of_everybody(
            corpus,
            pool,
            self.data,
            self.tokenizer,
            self.corpus.facts.class_names,
            self.evaluate.max_rows,
            self.run_seed,
        )
        return with_owners(heldout, keys) if self.data.partition.by == "natural" else heldout

    def _piece(self, numbers: np.ndarray, *, max_rows: int | None) -> Piece:
        """Tokenise documents."""
        return self.store.collect(
            tokenise(
                self.corpus.read(numbers),
                self.tokenizer,
                max_tokens=self.data.max_tokens,
                max_rows=max_rows,
                label_names=self.corpus.facts.class_names,
                loss=self.data.loss,
            )
        )

    def _max_rows(self) -> int | None:
        """The cap is on training rows; those that will be held out come on top."""
        max_rows = self.data.max_rows_per_client
        if max_rows is None or self._has_global_heldout():
            return max_rows
        return max(2, math.ceil(max_rows / (1 - self.data.heldout_fraction)))

    def _has_global_heldout(self) -> bool:
        return self.data.test is not None or self.data.heldout == "pool"

    def _split(self, num_rows: int, client_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of training rows and of held-out rows, each in the order of the text."""
        if not num_rows or self._has_global_heldout():
            return np.arange(num_rows), np.arange(0)
        num_heldout = max(1, round(self.data.heldout_fraction * num_rows)) if num_rows > 1 else 0
        order = generator(self.run_seed, NO_ROUND, client_id, "heldout").permutation(num_rows)
        heldout, train = np.sort(order[:num_heldout]), np.sort(order[num_heldout:])
        return train[: self.data.max_rows_per_client], heldout

    def _heldout(self, piece: Piece, picks: np.ndarray, numbers: np.ndarray, client_id: int) -> Heldout:
        """Return a client's held-out rows, no more than an evaluation can take."""
        picks = picks[: self.evaluate.max_rows]
        documents = tuple(self.corpus.read(numbers[piece.places[picks]]))
        return Heldout(piece.rows.take(picks), documents, np.full(len(picks), client_id, dtype=np.int64))


def _empty_message(dropped: Sequence[int], parts: Sequence[np.ndarray], facts: Facts, data: DataConfig) -> str:
    names = ", ".join(map(str, dropped[:_NAMED_CLIENTS])) + (", ..." if len(dropped) > _NAMED_CLIENTS else "")
    num_documents = sum(len(part) for part in parts)
    noun, verb = ("client", "has") if len(dropped) == 1 else ("clients", "have")
    owners = f" of {len(facts.keys.names)} owners" if data.partition.by == "natural" else ""
    return (
        f"{noun} {names} {verb} no data: {num_documents} documents{owners} for {len(parts)} clients. "
        "Use fewer clients or another data.partition, or set data.empty_client to drop."
    )
