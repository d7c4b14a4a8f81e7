"""Documents in, rows out, in pieces of bounded size.

Legend: N rows, T = max_tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from heterotune.data.document import Document
from heterotune.data.prompt_sequences import PromptSequence, prompt_sequences
from heterotune.data.rows import IGNORED, NO_LABEL, Rows, before_answers, concatenate_rows, pack
from heterotune.data.text_tokenizer import TextTokenizer

__all__ = [
    "IGNORED",
    "NO_LABEL",
    "Piece",
    "Rows",
    "before_answers",
    "concatenate_rows",
    "join_pieces",
    "make_rows",
    "tokenise",
]

_SHORTEST_REST = 8  # tokens; a shorter last block is dropped unless it is all there is
_CHARACTERS_PER_TOKEN = 3  # of the embedded tokenizer on source code; only decides how much is encoded at once
_MOST_CHARACTERS = 1 << 20  # that are encoded at once
_MOST_PROMPTS = 4096


@dataclass(frozen=True)
class Piece:
    """Some rows of a list of documents.

    Attributes:
        rows: The rows.
        places: The document in which each row begins, int64 (N,), counted from the first of the list.
        is_cut: Whether tokens of the row's prompt or response were left out, bool (N,).
    """

    rows: Rows
    places: np.ndarray
    is_cut: np.ndarray


def make_rows(
    documents: Sequence[Document],
    tokenizer: TextTokenizer,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    label_names: Sequence[str] = (),
    loss: Literal["response", "all"] = "response",
) -> Rows:
    """Tokenise documents of one kind, in order.

    Texts are joined, each ended by EOS, and cut into rows of `max_tokens`; the last token of a row is the first of the
    next, so every token is a target once. A prompt and its response make one row, with the loss on the response and
    EOS; one that is too long loses the start of its prompt and the end of its response, at least half of the row
    staying with the prompt if it needs it. Where there are choices, the response is whole and the prompt is cut as for
    the longest of them, so that all choices stand after the same prompt.

    Args:
        documents: All texts, or all prompts with responses.
        tokenizer: The fleet's tokenizer.
        max_tokens: T.
        max_rows: Stop there; later documents are not even tokenised. None = all rows.
        label_names: The classes; a document whose label is none of them, and every text, has no label.
        loss: Tokens of a prompt with response on which the loss is taken.

    Raises:
        DataError: If a conversation has no chat template, or a choice is longer than a row.
    """
    pieces = tokenise(
        documents, tokenizer, max_tokens=max_tokens, max_rows=max_rows, label_names=label_names, loss=loss
    )
    return join_pieces(list(pieces), max_tokens).rows


def join_pieces(pieces: Sequence[Piece], max_tokens: int) -> Piece:
    """Return pieces as one; without any, one without rows."""
    if not pieces:
        return Piece(pack([], max_tokens, 0), np.empty(0, dtype=np.int64), np.empty(0, dtype=bool))
    if len(pieces) == 1:
        return pieces[0]
    rows = concatenate_rows([piece.rows for piece in pieces])
    places, is_cut = ([getattr(piece, name) for piece in pieces] for name in ("places", "is_cut"))
    return Piece(rows, np.concatenate(places), np.concatenate(is_cut))


def tokenise(
    documents: Iterable[Document],
    tokenizer: TextTokenizer,
    *,
    max_tokens: int,
    max_rows: int | None = None,
    label_names: Sequence[str] = (),
    loss: Literal["response", "all"] = "response",
) -> Iterator[Piece]:
    """Yield the rows of `make_rows` in pieces; of the documents no more is held at once than one piece needs."""
    source = iter(documents)
    first = next(source, None)
    if first is None or max_rows == 0:
        return
    source = _with_first(first, source)
    if first.prompt is None:
        yield from _text_pieces(source, tokenizer, max_tokens, max_rows)
        return
    number = {name: i for i, name in enumerate(label_names)}
    num_done = 0
    for portion in _portions(source, _MOST_CHARACTERS, _MOST_PROMPTS if max_rows is None else max_rows):
        portion = portion[: None if max_rows is None else max_rows - num_done]
        sequences = prompt_sequences(portion, tokenizer, max_tokens)
        labels = [number.get(document.label or "", NO_LABEL) for document in portion]
        yield _prompt_piece(sequences, labels, num_done, max_tokens, tokenizer.eos_id, loss)
        num_done += len(portion)
        if num_done == max_rows:
            return


def _prompt_piece(
    sequences: Sequence[PromptSequence], labels: list[int], first_place: int, max_tokens: int, eos_id: int, loss: str
) -> Piece:
    rows = pack(
        [(each.tokens, each.answer_start if loss == "response" else 1) for each in sequences], max_tokens, eos_id
    )
    rows = replace(rows, labels=np.array(labels, dtype=np.int64))
    places = np.arange(first_place, first_place + len(rows), dtype=np.int64)
    return Piece(rows, places, np.array([each.is_cut for each in sequences], dtype=bool))


def _with_first(first: Document, rest: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from rest


def _text_pieces(
    documents: Iterator[Document], tokenizer: TextTokenizer, max_tokens: int, max_rows: int | None
) -> Iterator[Piece]:
    """Yield rows of at most max_tokens + 1 tokens that overlap by one."""
    stream: list[int] = []  # what is not yet in a row; its first token is the last of the row before
    begun: list[tuple[int, int]] = []  # (place in the stream, document): where documents begin
    num_documents = num_rows = 0
    enough = _MOST_CHARACTERS if max_rows is None else (max_rows * max_tokens + 1) * _CHARACTERS_PER_TOKEN
    for portion in _portions(documents, min(enough, _MOST_CHARACTERS), None):
        for ids in tokenizer.encode_batch([document.text or "" for document in portion]):
            begun.append((len(stream), num_documents))
            num_documents += 1
            stream += [tokenizer.bos_id] if tokenizer.bos_id is not None else []
            stream += ids
            stream.append(tokenizer.eos_id)
        wanted = (len(stream) - 1) // max_tokens
        wanted = wanted if max_rows is None else min(wanted, max_rows - num_rows)
        if wanted:
            yield _text_piece(stream, begun, range(0, wanted * max_tokens, max_tokens), max_tokens, tokenizer.eos_id)
            num_rows += wanted
            stream, begun = _rest(stream, begun, wanted * max_tokens)
        if num_rows == max_rows:
            return
    if len(stream) > 1 and (len(stream) - 1 >= _SHORTEST_REST or not num_rows):
        yield _text_piece(stream, begun, range(1), max_tokens, tokenizer.eos_id)


def _text_piece(stream: list[int], begun: list[tuple[int, int]], starts: range, max_tokens: int, eos_id: int) -> Piece:
    rows = pack([(stream[start : start + max_tokens + 1], 1) for start in starts], max_tokens, eos_id)
    beginnings = [place for place, _ in begun]
    places = [begun[bisect.bisect_right(beginnings, start) - 1][1] for start in starts]
    return Piece(rows, np.array(places, dtype=np.int64), np.zeros(len(rows), dtype=bool))


def _rest(stream: list[int], begun: list[tuple[int, int]], done: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Return what follows the rows that are done, and the documents that begin in it or reach into it."""
    later = [(place - done, document) for place, document in begun]
    keep = max(0, bisect.bisect_right([place for place, _ in later], 0) - 1)
    return stream[done:], later[keep:]


def _portions(documents: Iterator[Document], most_characters: int, most: int | None) -> Iterator[list[Document]]:
    """Group documents: a group ends with the one that fills it."""
    portion: list[Document] = []
    room = most_characters
    for document in documents:
        portion.append(document)
        room -= document.num_characters
        if room <= 0 or len(portion) == most:
            yield portion
            portion, room = [], most_characters
    if portion:
        yield portion
