"""Rows, written down by hand with a tokenizer of one token per word (w0 is token 2, EOS is 0)."""

from __future__ import annotations

import dataclasses

import numpy as np

from heterotune.data.corpora import Document
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import concatenate_rows, join_pieces, make_rows, tokenise


def _words(start: int, stop: int) -> str:
    return " ".join(f"w{i}" for i in range(start, stop))


def _text(start: int, stop: int) -> Document:
    return Document("owner", text=_words(start, stop))


def test_texts_are_joined_with_eos_and_every_token_is_a_target_once(word_tokenizer: TextTokenizer) -> None:
    rows = make_rows([_text(0, 10), _text(20, 36)], word_tokenizer, max_tokens=9)
    stream = [*range(2, 12), 0, *range(22, 38), 0]
    assert rows.input_ids[0].tolist() == stream[0:9]
    assert rows.targets[0].tolist() == stream[1:10]
    assert rows.input_ids[1].tolist() == stream[9:18]
    assert rows.targets[1].tolist() == stream[10:19]
    assert rows.input_ids[2].tolist() == stream[18:27]
    assert rows.lengths.tolist() == [9, 9, 9]
    assert rows.input_ids.dtype == rows.targets.dtype == rows.lengths.dtype == np.int64
    assert np.concatenate([rows.targets[i] for i in range(3)]).tolist() == stream[1:]


def test_a_short_rest_is_padded_or_dropped(word_tokenizer: TextTokenizer) -> None:
    kept = make_rows([_text(0, 17)], word_tokenizer, max_tokens=9)  # 17 targets: 9 + 8
    assert kept.lengths.tolist() == [9, 8]
    assert kept.targets[1].tolist() == [*range(12, 19), 0, -100]
    assert kept.input_ids[1, 8] == 0
    dropped = make_rows([_text(0, 16)], word_tokenizer, max_tokens=9)  # 16 targets: 9 + 7
    assert dropped.lengths.tolist() == [9]


def test_a_short_text_that_is_all_there_is_stays(word_tokenizer: TextTokenizer) -> None:
    rows = make_rows([_text(0, 2)], word_tokenizer, max_tokens=8)
    assert rows.lengths.tolist() == [2]
    assert rows.targets[0].tolist() == [3, 0, *[-100] * 6]


def test_a_begin_token_begins_every_text_where_the_tokenizer_has_one(word_tokenizer: TextTokenizer) -> None:
    rows = make_rows([_text(0, 3), _text(5, 8)], dataclasses.replace(word_tokenizer, bos_id=1), max_tokens=9)
    assert rows.input_ids[0].tolist() == [1, 2, 3, 4, 0, 1, 7, 8, 9]


def test_max_rows_gives_the_first_rows_and_does_not_read_on(word_tokenizer: TextTokenizer) -> None:
    documents = [_text(i, i + 20) for i in range(60)]
    everything = make_rows(documents, word_tokenizer, max_tokens=8)
    seen: list[str] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(TextTokenizer):
        def encode_batch(self, texts):  # noqa: ANN001, ANN202
            seen.extend(texts)
            return super().encode_batch(texts)

    watched = Watched(**{f.name: getattr(word_tokenizer, f.name) for f in dataclasses.fields(word_tokenizer)})
    first = make_rows(documents, watched, max_tokens=8, max_rows=3)
    assert np.array_equal(first.input_ids, everything.input_ids[:3])
    assert np.array_equal(first.targets, everything.targets[:3])
    assert len(seen) < 10


def test_prompts_take_no_loss(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", prompt="w0 w1 w2", response="w8 w9")
    rows = make_rows([document], word_tokenizer, max_tokens=8)
    assert rows.input_ids[0].tolist() == [0, 2, 3, 4, 10, 11, 0, 0]
    assert rows.targets[0].tolist() == [-100, -100, -100, 10, 11, 0, -100, -100]
    assert rows.lengths.tolist() == [6]


def test_a_long_prompt_loses_its_start(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", prompt=_words(0, 50), response="w60 w61")
    rows = make_rows([document], word_tokenizer, max_tokens=8)
    assert rows.input_ids[0].tolist() == [0, 47, 48, 49, 50, 51, 62, 63]
    assert rows.targets[0].tolist() == [-100] * 5 + [62, 63, 0]


def test_a_long_response_loses_its_end_and_leaves_half_to_the_prompt(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", prompt=_words(0, 50), response=_words(60, 90))
    rows = make_rows([document], word_tokenizer, max_tokens=8)
    assert rows.input_ids[0].tolist() == [0, 48, 49, 50, 51, 62, 63, 64]
    assert rows.targets[0].tolist() == [-100] * 4 + [62, 63, 64, 65]


def test_a_short_prompt_leaves_the_rest_to_the_response(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", prompt="w0", response=_words(60, 90))
    rows = make_rows([document], word_tokenizer, max_tokens=8)
    assert rows.input_ids[0].tolist() == [0, 2, *range(62, 68)]
    assert rows.targets[0].tolist() == [-100, *range(62, 69)]


def test_max_rows_of_prompts_are_the_first(word_tokenizer: TextTokenizer) -> None:
    documents = [Document("owner", prompt=f"w{i}", response="w9") for i in range(5)]
    assert make_rows(documents, word_tokenizer, max_tokens=8, max_rows=2).input_ids[:, 1].tolist() == [2, 3]


def test_no_documents_give_no_rows(word_tokenizer: TextTokenizer) -> None:
    rows = make_rows([], word_tokenizer, max_tokens=8)
    assert (len(rows), rows.input_ids.shape) == (0, (0, 8))


def test_rows_can_be_taken_and_joined(word_tokenizer: TextTokenizer) -> None:
    rows = make_rows([_text(0, 40)], word_tokenizer, max_tokens=8)
    joined = concatenate_rows([rows.take(np.array([3])), rows.take(np.array([0, 1]))])
    assert joined.input_ids[:, 0].tolist() == [rows.input_ids[i, 0] for i in (3, 0, 1)]
    assert joined.lengths.tolist() == [8, 8, 8]


def test_a_row_of_text_belongs_to_the_document_it_begins_in(word_tokenizer: TextTokenizer) -> None:
    piece = join_pieces(list(tokenise([_text(0, 4), _text(0, 20), _text(0, 8)], word_tokenizer, max_tokens=8)), 8)
    rows = piece.rows
    assert (len(rows), piece.places.tolist()) == (4, [0, 1, 1, 1])  # document 0 ends at place 4, document 1 at 25
    assert rows.labels.tolist() == [-1] * 4


def test_labels_are_counted_in_the_order_of_their_names(word_tokenizer: TextTokenizer) -> None:
    documents = [Document("owner", label, prompt="w1", response="w2") for label in ("b", "a", "c")]
    rows = make_rows(documents, word_tokenizer, max_tokens=8, label_names=("a", "b"))
    assert rows.labels.tolist() == [1, 0, -1]
    assert concatenate_rows([rows.take(np.array([1])), rows]).labels.tolist() == [0, 1, 0, -1]
