"""What a client holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heterotune.data.facts import Codes, Facts
from heterotune.data.tokenizing import Piece

_LENGTH_SHARES = (0, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True)
class Holding:
    """One client's training rows.

    Attributes:
        num_documents: Documents that the partition gave it.
        num_tokens: Input tokens of its training rows.
        num_cut: Training rows that lost tokens of their prompt or response.
        owners: Natural owner -> rows that begin in a document of it.
        labels: Class, or what the partition divides by -> rows.
        length_quartiles: Input tokens of the shortest row, the quartiles and the longest; empty without rows.
    """

    num_documents: int
    num_tokens: int
    num_cut: int
    owners: dict[str, int]
    labels: dict[str, int]
    length_quartiles: tuple[int, ...]


def holding(piece: Piece, picks: np.ndarray, numbers: np.ndarray, facts: Facts) -> Holding:
    """Count a client's training rows.

    Args:
        piece: All its rows, held-out ones included.
        picks: Which of these are for training.
        numbers: Number in the corpus of each of its documents, in the order in which they were tokenised.
        facts: What is known of the corpus.
    """
    documents = numbers[piece.places[picks]]
    lengths, is_cut = piece.rows.lengths[picks], piece.is_cut[picks]
    return count_rows(lengths, is_cut, facts.keys, facts.labels, documents, num_documents=len(numbers))


def count_rows(
    lengths: np.ndarray, is_cut: np.ndarray, keys: Codes, labels: Codes, places: np.ndarray, *, num_documents: int
) -> Holding:
    """Count rows.

    Args:
        lengths: Input tokens of each.
        is_cut: Whether it lost tokens.
        keys: Natural owners.
        labels: Classes; "" = none.
        places: Where each row is in `keys` and `labels`.
        num_documents: Documents that they are of.
    """
    quartiles = np.quantile(lengths, _LENGTH_SHARES, method="lower") if len(lengths) else np.empty(0)
    return Holding(
        num_documents=num_documents,
        num_tokens=int(lengths.sum()),
        num_cut=int(is_cut.sum()),
        owners=_counts(keys, places),
        labels={label: count for label, count in _counts(labels, places).items() if label},
        length_quartiles=tuple(int(length) for length in quartiles),
    )


def _counts(codes: Codes, places: np.ndarray) -> dict[str, int]:
    present, counts = np.unique(codes.of[places], return_counts=True)
    return {codes.names[code]: count for code, count in zip(present.tolist(), counts.tolist(), strict=True)}
