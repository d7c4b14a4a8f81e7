"""What held-out documents ask: answers as rows, one row where they are one token each, and what cannot be asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.corpora import Document
from heterotune.data.questions import label_tokens, make_questions, picked_metrics, without_end
from heterotune.data.tokenizing import Rows, make_rows
from heterotune.errors import DataError

OPTIONS = DataConfig(source="embedded:stdlib", max_tokens=8)
BOTH_WITHOUT_CHOICES = EvaluateConfig(metrics=("loss", "exact_match"))
BOTH = EvaluateConfig(metrics=("loss", "accuracy", "exact_match"))


def heldout(documents, tokenizer) -> FederatedData:
    rows = make_rows(documents, tokenizer, max_tokens=8)
    owners = np.arange(len(documents)) + 10
    return FederatedData((), rows, owners, (), (), heldout_documents=tuple(documents))


@pytest.fixture
def data(word_tokenizer) -> FederatedData:
    documents = (
        Document("o", prompt="w1 w2", response="w5", choices=("w4", "w5")),
        Document("o", prompt="w3", response="w6 w7"),
        Document("o", prompt="w3", response="w6 w7", choices=("w6 w7", "w8", "w6 w9 w9")),
        Document("o", prompt="w4", response="w8", choices=("w8", "w9", "w7")),
    )
    return heldout(documents, word_tokenizer)


def words(ids) -> list[int]:
    """Token w7 is 9; the end of text is 0."""
    return [int(token) - 2 for token in ids]


def test_one_row_for_answers_of_one_token_else_one_for_every_answer(data, word_tokenizer) -> None:
    choices = make_questions(data, word_tokenizer, OPTIONS, BOTH).choices
    assert choices.heldout_Q.tolist() == [0, 2, 3] and choices.right_Q.tolist() == [1, 0, 0]
    assert choices.first_pair.tolist() == [0, 2, 5, 8]
    assert choices.num_tokens_P.tolist() == [1, 1, 2, 1, 3, 1, 1, 1]
    assert choices.label_questions == (0, 2)
    assert [words(tokens) for tokens in choices.label_tokens] == [[4, 5], [8, 9, 7]]
    assert [
        words(row[:n]) for row, n in zip(choices.label_rows.input_ids, choices.label_rows.lengths, strict=True)
    ] == [
        [-2, 1, 2],
        [-2, 4],
    ]
    assert choices.pairs == (2, 3, 4) and choices.pair_questions == (1, 1, 1)
    found = [words(row[row >= 0]) for row in choices.pair_rows.targets]
    assert found == [[6, 7], [8], [6, 9, 9]], "the end of text is no part of an answer"
    assert choices.owners(choices.label_questions, data.heldout_clients).tolist() == [10, 13]
    assert choices.owners(choices.pair_questions, data.heldout_clients).tolist() == [12, 12, 12]


def test_label_tokens_are_those_of_class_names_first_the_ones_that_begin_one(data, word_tokenizer) -> None:
    classes = replace(data, label_names=("w6 w7", "w8", "w6 w9 w9"))
    assert words(label_tokens(classes, word_tokenizer, OPTIONS)) == [6, 8, 7, 9]
    with pytest.raises(DataError, match="heterotune.head_outputs = labels needs classes, and the data has none"):
        label_tokens(data, word_tokenizer, OPTIONS)


def test_what_ends_an_answer_is_not_compared() -> None:
    """Token 1 ends a turn, 0 the text; a chat template may have a line end after it."""
    answers = [[7, 8, 0], [7, 1, 8], [7, 8, 9], [1, 7, 8], [7, 1, 0], [0]]
    targets = np.full((6, 5), -100)
    for row, answer in enumerate(answers):
        targets[row, 2 : 2 + len(answer)] = answer
    lengths = np.array([2 + len(answer) for answer in answers])
    found = without_end(Rows(np.ones_like(targets), targets, lengths), {0, 1})
    assert [row[row >= 0].tolist() for row in found.targets] == [[7, 8], [7], [7, 8, 9], [1, 7, 8], [7], [0]]
    assert found.lengths.tolist() == [4, 3, 5, 5, 3, 3]


def test_prompts_end_where_the_response_begins_where_the_loss_is_taken_on_all(word_tokenizer) -> None:
    documents = (Document("o", prompt="w1 w2", response="w5"),)
    rows = make_rows(documents, word_tokenizer, max_tokens=8, loss="all")
    data = FederatedData((), rows, np.zeros(1, np.int64), (), (), heldout_documents=documents)
    assert make_questions(data, word_tokenizer, OPTIONS, BOTH_WITHOUT_CHOICES).prompts.rows.lengths.tolist() == [3]


def test_prompts_end_where_the_response_would_begin(data, word_tokenizer) -> None:
    prompts = make_questions(data, word_tokenizer, OPTIONS, BOTH).prompts
    assert prompts.responses == ("w5", "w6 w7", "w6 w7", "w8")
    found = [words(row[:n]) for row, n in zip(prompts.rows.input_ids, prompts.rows.lengths, strict=True)]
    assert found == [[-2, 1, 2], [-2, 3], [-2, 3], [-2, 4]]
    counts = prompts.rows.targets >= 0
    assert counts.sum(axis=1).tolist() == [1, 1, 1, 1]
    assert counts.argmax(axis=1).tolist() == (prompts.rows.lengths - 1).tolist()


def test_what_is_not_measured_is_not_asked(data, word_tokenizer) -> None:
    questions = make_questions(data, word_tokenizer, OPTIONS, EvaluateConfig(metrics=("loss",)))
    assert questions.choices is None and questions.prompts is None


def test_auto_is_the_loss_and_accuracy_where_there_are_choices(data, word_tokenizer) -> None:
    assert picked_metrics("auto", data) == ("loss", "accuracy")
    without = heldout([data.heldout_documents[1]], word_tokenizer)
    assert picked_metrics("auto", without) == ("loss",)
    assert picked_metrics(("loss", "exact_match"), without) == ("loss", "exact_match")


def test_what_no_document_can_be_asked_is_an_error(data, word_tokenizer) -> None:
    text = heldout([Document("o", text="w1 w2 w3")], word_tokenizer)
    with pytest.raises(DataError, match="evaluate.metrics has accuracy, but no held-out document has choices"):
        picked_metrics(("loss", "accuracy"), text)
    with pytest.raises(DataError, match="evaluate.metrics has exact_match, but no held-out document has a prompt"):
        picked_metrics(("loss", "exact_match"), text)
