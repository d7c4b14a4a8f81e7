"""Clients that draw their rows from a common pool, on demand: how a corpus of any size feeds a million clients.

A client's rows are a function of the run's seed and its id, so every rank finds the same ones without having them, and
more clients do not change what the first ones hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from heterotune.config.data_options import PartitionConfig
from heterotune.data.facts import Codes, Facts
from heterotune.data.holdings import Holding, count_rows
from heterotune.data.rows import Rows
from heterotune.data.tokenizing import Piece
from heterotune.errors import DataError
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator


@dataclass(frozen=True)
class PoolFacts:
    """Of every row of a pool, in its order.

    Attributes:
        keys: Natural owners.
        labels: Classes, or what a partition by label divides; "" = none.
        strata: What a client's mixture is over.
        documents: Number in the corpus of the document in which the row begins, int64 (N,).
        is_cut: Whether tokens were left out, bool (N,).
    """

    keys: Codes
    labels: Codes
    strata: Codes
    documents: np.ndarray
    is_cut: np.ndarray


def pool_facts(piece: Piece, numbers: np.ndarray, facts: Facts) -> PoolFacts:
    """Return what is known of a pool's rows.

    Args:
        piece: The pool.
        numbers: Number in the corpus of each document that was tokenised.
        facts: What is known of the corpus.
    """
    documents = numbers[piece.places]
    codes = [Codes(each.names, each.of[documents]) for each in (facts.keys, facts.labels, facts.strata)]
    return PoolFacts(*codes, documents, piece.is_cut)


def drawn_sizes(config: PartitionConfig, num_clients: int, *, run_seed: int) -> np.ndarray:
    """Return the rows of each client, int64 (N,): `rows_per_client`, times a log-normal factor under `rows_spread`.

    Where all have as many, the array takes no memory.
    """
    if not config.rows_spread:
        return np.broadcast_to(np.int64(config.rows_per_client), num_clients)
    normal = generator(run_seed, NO_ROUND, NO_CLIENT, "drawn sizes").standard_normal(num_clients)
    return np.maximum(1, np.rint(config.rows_per_client * np.exp(config.rows_spread * normal))).astype(np.int64)


@dataclass(frozen=True, eq=False)
class DrawnRows:
    """A pool of rows from which every client draws its own; a row may be several clients'.

    Attributes:
        pool: The rows.
        facts: What is known of them.
        num_rows: Rows of each client, int64 (N,).
        config: `data.partition`: `within`, `alpha`.
        run_seed: The run's seed.
    """

    pool: Rows
    facts: PoolFacts
    num_rows: np.ndarray
    config: PartitionConfig
    run_seed: int

    def __post_init__(self) -> None:
        if not len(self.pool):
            raise DataError("data.partition.by = drawn: the corpus has no rows to draw from. Use more text.")
        if self.config.within == "dirichlet" and len(self.facts.strata.names) < 2:
            raise DataError(
                "data.partition.within = dirichlet draws from labels, and the corpus has fewer than two. Name their "
                "field in data.partition.key, or set within: iid."
            )

    def __len__(self) -> int:
        return len(self.num_rows)

    def __getitem__(self, client_id: int) -> Rows:
        return self.pool.take(self.numbers_of(client_id))

    def numbers_of(self, client_id: int) -> np.ndarray:
        """Return the rows of the pool that a client holds, int64; the same on every rank.

        None twice, unless it holds more rows (of a label) than there are. Under `within: dirichlet` they are of labels
        in the client's own shares, drawn from Dirichlet(alpha x number of labels x share of each in the pool).

        Source: clients' mixtures as in Hsu et al. (2019), whose alpha is ours x number of labels.
        """
        place = range(len(self))[client_id]
        draw = generator(self.run_seed, NO_ROUND, place, "drawn rows")
        num_rows = int(self.num_rows[place])
        if self.config.within == "iid":
            return draw.choice(len(self.pool), size=num_rows, replace=num_rows > len(self.pool))
        sizes = np.array([len(rows) for rows in self._members])
        concentrations = self.config.alpha * len(sizes) * sizes / sizes.sum()
        counts = draw.multinomial(num_rows, draw.dirichlet(concentrations))
        parts = [
            rows[draw.choice(len(rows), size=count, replace=count > len(rows))]
            for rows, count in zip(self._members, counts.tolist(), strict=True)
            if count
        ]
        return np.concatenate(parts)

    def held(self) -> tuple[Rows, ...]:
        """Return the pool."""
        return (self.pool,)

    def digest_parts(self) -> Iterator[tuple[bytes, Rows]]:
        """Yield the pool, after all that decides who draws what of it."""
        sizes = self.config.rows_per_client, self.config.rows_spread, len(self)
        mixture = (self.config.alpha, len(self.facts.strata.names)) if self.config.within == "dirichlet" else ()
        recipe = repr((self.run_seed, sizes, self.config.within, mixture)).encode()
        yield b"drawn %s\n" % recipe + self.facts.strata.of.astype("<i4").tobytes() * bool(mixture), self.pool

    def pooled(self, client_ids: Sequence[int]) -> Rows:
        """Return the pool: what the draws of many clients are samples of."""
        return self.pool

    def holding_of(self, client_id: int) -> Holding:
        """Return what a client holds."""
        numbers, facts = self.numbers_of(client_id), self.facts
        num_documents = len(np.unique(facts.documents[numbers]))
        lengths, is_cut = self.pool.lengths[numbers], facts.is_cut[numbers]
        return count_rows(lengths, is_cut, facts.keys, facts.labels, numbers, num_documents=num_documents)

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """The pool's rows of each label that has any."""
        return [rows for rows in self.facts.strata.members() if len(rows)]
