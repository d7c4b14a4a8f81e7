"""Tokenised rows: integer arrays of one width, targets already shifted.

Legend: N rows, T = max_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

IGNORED = -100
NO_LABEL = -1
_NOT_GIVEN = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Tokenised rows.

    Attributes:
        input_ids: What the model reads, int64 (N, T); padded with the end-of-sequence token. Rows that are kept on
            disk hold int32 here and in `targets`, mapped; `take` brings them into memory as int64.
        targets: The token after each input token, int64 (N, T); -100 where no loss is taken.
        lengths: Input tokens of each row before the padding, int64 (N,).
        labels: Class of the row's document, int64 (N,), an index into the data's `label_names`; -1 = none, which is
            what all rows have if no labels are given here.
    """

    input_ids: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray = field(default_factory=lambda: _NOT_GIVEN)

    def __post_init__(self) -> None:
        if self.labels is _NOT_GIVEN:
            object.__setattr__(self, "labels", np.full(len(self.lengths), NO_LABEL, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, picks: np.ndarray) -> Rows:
        """Return some rows, as a copy in memory, in the order of `picks` (int64 row numbers)."""
        ids, targets = (np.array(array[picks], dtype=np.int64) for array in (self.input_ids, self.targets))
        return Rows(ids, targets, np.array(self.lengths[picks]), np.array(self.labels[picks]))


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """Return all rows of `parts`, which must be at least one and equally wide, in order."""
    return Rows(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def before_answers(rows: Rows) -> Rows:
    """Return rows of prompts whose one target is the place where the answer would begin; what follows is cut off."""
    places, begins = np.arange(len(rows)), (rows.targets != IGNORED).argmax(axis=1)
    targets = np.full_like(rows.targets, IGNORED)
    targets[places, begins] = rows.targets[places, begins]
    return replace(rows, targets=targets, lengths=begins + 1)


def pack(sequences: Sequence[tuple[list[int], int]], max_tokens: int, padding_id: int) -> Rows:
    """Lay sequences out as rows; no loss before the place where a sequence's answer begins.

    Args:
        sequences: At most max_tokens + 1 tokens each, and the place of the first token on which the loss is taken.
        max_tokens: T.
        padding_id: Fills a row's end.
    """
    input_ids = np.full((len(sequences), max_tokens), padding_id, dtype=np.int64)
    targets = np.full((len(sequences), max_tokens), IGNORED, dtype=np.int64)
    for i, (tokens, answer_start) in enumerate(sequences):
        length = len(tokens) - 1
        input_ids[i, :length] = tokens[:-1]
        targets[i, answer_start - 1 : length] = tokens[answer_start:]
    lengths = np.array([len(tokens) - 1 for tokens, _ in sequences], dtype=np.int64)
    return Rows(input_ids, targets, lengths)
