"""Documents in, rows out: integer arrays of one width, targets already shifted.

Legend: N rows, T = max_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from heterotune.data.corpora import Document
from heterotune.data.text_tokenizer import TextTokenizer

IGNORED = -100
NO_LABEL = -1
_NOT_GIVEN = np.empty(0, dtype=np.int64)
_SHORTEST_REST = 8  # tokens; a shorter last block is dropped unless it is all there is
_CHARACTERS_PER_TOKEN = 3  # of the embedded tokenizer on source code; only decides how much is encoded at once


@dataclass(frozen=True)
class Rows:
    """Tokenised rows.

    Attributes:
        input_ids: What the model reads, int64 (N, T); padded with the end-of-sequence token.
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
        """Return some rows, as a copy, in the order of `picks` (int64 row numbers)."""
        return Rows(self.input_ids[picks], self.targets[picks], self.lengths[picks], self.labels[picks])


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """Return all rows of `parts`, which must be at least one and equally wide, in order."""
    return Rows(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def make_rows(
    documents: Sequence[Document],
    tokenizer: TextTokenizer,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    label_names: Sequence[str] = (),
) -> Rows:
    """Tokenise documents of one kind, in order.

    Texts are joined, each ended by EOS, and cut into rows of `max_tokens`; the last token of a row is the first of the
    next, so every token is a target once. A prompt and its response make one row, with the loss on the response and
    EOS; one that is too long loses the start of its prompt and the end of its response, at least half of the row
    staying with the prompt if it needs it.

    Args:
        documents: All texts, or all prompts with responses.
        tokenizer: The fleet's tokenizer.
        max_tokens: T.
        max_rows: Stop there; later documents are not even tokenised. None = all rows.
        label_names: The classes; a document whose label is none of them, and every text, has no label.
    """
    return make_rows_of(documents, tokenizer, max_tokens=max_tokens, max_rows=max_rows, label_names=label_names)[0]


def make_rows_of(
    documents: Sequence[Document],
    tokenizer: TextTokenizer,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    label_names: Sequence[str] = (),
) -> tuple[Rows, np.ndarray]:
    """Tokenise as `make_rows`; return also the place of the document in which each row begins, int64 (N,)."""
    if not documents:
        return _pack([], max_tokens, tokenizer.eos_id), np.empty(0, dtype=np.int64)
    if documents[0].prompt is not None:
        sequences = _prompt_sequences(documents[:max_rows], tokenizer, max_tokens)
        rows = _pack(sequences, max_tokens, tokenizer.eos_id)
        return replace(rows, labels=_labels(documents[:max_rows], label_names)), np.arange(len(rows))
    blocks, places = _text_blocks(documents, tokenizer, max_tokens, max_rows)
    return _pack([(block, 1) for block in blocks], max_tokens, tokenizer.eos_id), places


def _labels(documents: Sequence[Document], label_names: Sequence[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(label_names)}
    return np.array([number.get(document.label or "", NO_LABEL) for document in documents], dtype=np.int64)


def _text_blocks(
    documents: Sequence[Document], tokenizer: TextTokenizer, max_tokens: int, max_rows: int | None
) -> tuple[list[list[int]], np.ndarray]:
    """Return sequences of at most max_tokens + 1 tokens that overlap by one, and the document each begins in."""
    wanted = None if max_rows is None else max_rows * max_tokens + 1
    stream: list[int] = []
    beginnings: list[int] = []
    for texts in _portions([document.text or "" for document in documents], wanted):
        if wanted is not None and len(stream) >= wanted:
            break
        for ids in tokenizer.encode_batch(texts):
            beginnings.append(len(stream))
            stream += [tokenizer.bos_id] if tokenizer.bos_id is not None else []
            stream += ids
            stream.append(tokenizer.eos_id)
    starts = range(0, len(stream) - 1, max_tokens)
    blocks = [stream[start : start + max_tokens + 1] for start in starts]
    if len(blocks) > 1 and len(blocks[-1]) - 1 < _SHORTEST_REST:
        blocks.pop()
    blocks = blocks[:max_rows]
    return blocks, np.searchsorted(beginnings, starts[: len(blocks)], side="right") - 1


def _portions(texts: list[str], wanted_tokens: int | None) -> list[list[str]]:
    """Group texts so that one group probably holds the wanted tokens, lest more be encoded than needed."""
    if wanted_tokens is None:
        return [texts]
    portions: list[list[str]] = []
    room = 0
    for text in texts:
        if room <= 0:
            portions.append([])
            room = wanted_tokens * _CHARACTERS_PER_TOKEN
        portions[-1].append(text)
        room -= len(text)
    return portions


def _prompt_sequences(
    documents: Sequence[Document], tokenizer: TextTokenizer, max_tokens: int
) -> list[tuple[list[int], int]]:
    """Return for each document its at most max_tokens + 1 tokens, and where the response begins."""
    prompts = tokenizer.encode_batch([f"{document.prompt}\n" for document in documents])
    responses = tokenizer.encode_batch([document.response or "" for document in documents])
    start_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    sequences = []
    for prompt, response in zip(prompts, responses, strict=True):
        answer = [*response, tokenizer.eos_id]
        num_prompt = max(max_tokens - len(answer), min(len(prompt), max_tokens // 2))
        question = [start_id, *prompt[max(0, len(prompt) - num_prompt) :]]
        sequences.append(((question + answer)[: max_tokens + 1], len(question)))
    return sequences


def _pack(sequences: Sequence[tuple[list[int], int]], max_tokens: int, padding_id: int) -> Rows:
    """Lay sequences out as rows; no loss before the place where a sequence's answer begins."""
    input_ids = np.full((len(sequences), max_tokens), padding_id, dtype=np.int64)
    targets = np.full((len(sequences), max_tokens), IGNORED, dtype=np.int64)
    for i, (tokens, answer_start) in enumerate(sequences):
        length = len(tokens) - 1
        input_ids[i, :length] = tokens[:-1]
        targets[i, answer_start - 1 : length] = tokens[answer_start:]
    lengths = np.array([len(tokens) - 1 for tokens, _ in sequences], dtype=np.int64)
    return Rows(input_ids, targets, lengths)
