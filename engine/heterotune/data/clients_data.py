"""The rows of every client, and the held-out rows on which the fleet is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heterotune.config.schema import DataConfig, EvaluateConfig
from heterotune.data.corpora import Document, load_corpus, load_public
from heterotune.data.partition import partition
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import Rows, concatenate_rows, make_rows, make_rows_of
from heterotune.errors import DataError
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_NAMED_CLIENTS = 8


@dataclass(frozen=True)
class FederatedData:
    """Who holds what.

    Attributes:
        train: Training rows of client 0, 1, ...; a dropped client has none.
        heldout: Held-out rows, at most `evaluate.max_rows`, an equal share from every client that has enough.
        heldout_clients: Which client each held-out row is from, int64 (N,); -1 = nobody's (the whole fleet's).
        keys: For each client the natural owners of its documents, sorted.
        dropped: Clients without rows, under `data.empty_client: drop`.
        heldout_documents: The document of each held-out row; of text, the one in which the row begins.
        label_names: The classes of classification, which `Rows.labels` counts from 0; empty if there are none.
    """

    train: tuple[Rows, ...]
    heldout: Rows
    heldout_clients: np.ndarray
    keys: tuple[tuple[str, ...], ...]
    dropped: tuple[int, ...]
    heldout_documents: tuple[Document, ...] = ()
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Share:
    """Rows, and the document that each begins in."""

    rows: Rows
    documents: tuple[Document, ...]

    def take(self, picks: np.ndarray) -> _Share:
        return _Share(self.rows.take(picks), tuple(self.documents[i] for i in picks.tolist()))


def build_federated_data(
    data: DataConfig, evaluate: EvaluateConfig, tokenizer: TextTokenizer, num_clients: int, *, run_seed: int
) -> FederatedData:
    """Load, divide and tokenise the corpus.

    A client's rows come from its documents in an order drawn by the seed, as far as `max_rows_per_client` lets it; a
    random `heldout_fraction` of the rows is held out, at least one row if the client has two.

    Args:
        data: Section `data`.
        evaluate: Section `evaluate`.
        tokenizer: The fleet's tokenizer.
        num_clients: Clients of the whole fleet.
        run_seed: The run's seed.

    Raises:
        DataError: If the corpus is missing or empty, a client has no rows and the policy is `error`, or nothing is left
            to evaluate on.
    """
    parts = partition(load_corpus(data), num_clients, data.partition, seed=run_seed)
    empty = tuple(client_id for client_id, documents in enumerate(parts) if not documents)
    if empty and data.empty_client == "error":  # before the others are tokenised
        raise DataError(_empty_message(empty, parts, data))
    label_names = _label_names(parts)
    splits = [
        _split(_client_rows(documents, data, tokenizer, label_names, client_id, run_seed), data, client_id, run_seed)
        for client_id, documents in enumerate(parts)
    ]
    dropped = tuple(client_id for client_id, (train, _) in enumerate(splits) if not len(train.rows))
    if dropped and (data.empty_client == "error" or len(dropped) == num_clients):
        raise DataError(_empty_message(dropped, parts, data))
    heldout, heldout_clients = _spread([heldout for _, heldout in splits], evaluate.max_rows)
    if not len(heldout.rows):
        raise DataError(
            "No client has two rows or more, so none can be held out for evaluation. Use more text, or fewer clients."
        )
    return FederatedData(
        train=tuple(train.rows for train, _ in splits),
        heldout=heldout.rows,
        heldout_clients=heldout_clients,
        keys=tuple(tuple(sorted({document.key for document in documents})) for documents in parts),
        dropped=dropped,
        heldout_documents=heldout.documents,
        label_names=label_names,
    )


def build_public_rows(data: DataConfig, tokenizer: TextTokenizer, *, num_tokens: int, run_seed: int) -> Rows:
    """Tokenise public documents, drawn by the seed, until `num_tokens` targets are there or the text ends.

    Raises:
        DataError: If the public text is missing or empty.
    """
    documents = load_public(data)
    order = generator(run_seed, NO_ROUND, NO_CLIENT, "public rows").permutation(len(documents))
    shuffled = [documents[i] for i in order]
    max_rows = -(-num_tokens // data.max_tokens)
    while True:
        rows = make_rows(shuffled, tokenizer, max_tokens=data.max_tokens, max_rows=max_rows)
        num_targets = int((rows.targets >= 0).sum())
        if num_targets >= num_tokens or len(rows) < max_rows:
            return rows
        max_rows *= 2  # rows with few targets each: short texts, or responses


def _label_names(parts: Sequence[Sequence[Document]]) -> tuple[str, ...]:
    """Return the classes: the labels of documents that have choices."""
    return tuple(sorted({document.label for part in parts for document in part if document.choices and document.label}))


def _client_rows(
    documents: Sequence[Document],
    data: DataConfig,
    tokenizer: TextTokenizer,
    label_names: Sequence[str],
    client_id: int,
    run_seed: int,
) -> _Share:
    max_rows = data.max_rows_per_client
    if max_rows is not None:  # it limits the training rows; those that will be held out come on top
        max_rows = max(2, math.ceil(max_rows / (1 - data.heldout_fraction)))
    order = generator(run_seed, NO_ROUND, client_id, "documents").permutation(len(documents)) if documents else ()
    shuffled = [documents[i] for i in order]
    rows, places = make_rows_of(
        shuffled, tokenizer, max_tokens=data.max_tokens, max_rows=max_rows, label_names=label_names
    )
    return _Share(rows, tuple(shuffled[i] for i in places.tolist()))


def _split(share: _Share, data: DataConfig, client_id: int, run_seed: int) -> tuple[_Share, _Share]:
    """Return training rows and held-out rows, each in the order of the text."""
    num_rows = len(share.rows)
    if not num_rows:
        return share, share
    num_heldout = max(1, round(data.heldout_fraction * num_rows)) if num_rows > 1 else 0
    order = generator(run_seed, NO_ROUND, client_id, "heldout").permutation(num_rows)
    heldout, train = np.sort(order[:num_heldout]), np.sort(order[num_heldout:])
    return share.take(train[: data.max_rows_per_client]), share.take(heldout)


def _spread(heldout: Sequence[_Share], max_rows: int) -> tuple[_Share, np.ndarray]:
    """Take held-out rows in turns, one from each client, until `max_rows` are taken; return them in client order."""
    turns = sorted((turn, client_id) for client_id, share in enumerate(heldout) for turn in range(len(share.rows)))
    taken = sorted((client_id, turn) for turn, client_id in turns[:max_rows])
    clients = np.array([client_id for client_id, _ in taken], dtype=np.int64)
    num_taken = np.bincount(clients, minlength=len(heldout))
    parts = [share.take(np.arange(count)) for share, count in zip(heldout, num_taken, strict=True)]
    documents = tuple(document for part in parts for document in part.documents)
    return _Share(concatenate_rows([part.rows for part in parts]), documents), clients


def _empty_message(dropped: Sequence[int], parts: Sequence[Sequence[Document]], data: DataConfig) -> str:
    names = ", ".join(map(str, dropped[:_NAMED_CLIENTS])) + (", ..." if len(dropped) > _NAMED_CLIENTS else "")
    num_owners = len({document.key for part in parts for document in part})
    num_documents = sum(len(part) for part in parts)
    noun, verb = ("client", "has") if len(dropped) == 1 else ("clients", "have")
    owners = f" of {num_owners} owners" if data.partition.by == "natural" else ""
    return (
        f"{noun} {names} {verb} no data: {num_documents} documents{owners} for {len(parts)} clients. "
        "Use fewer clients or another data.partition, or set data.empty_client to drop."
    )
