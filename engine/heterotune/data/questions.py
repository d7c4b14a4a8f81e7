"""What held-out documents ask of a model beside their own loss: which of some answers, or the whole response.

Legend: N held-out rows, Q questions, P pairs of a question and one of its answers, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import IGNORED, Rows, before_answers, make_rows
from heterotune.errors import DataError


@dataclass(frozen=True)
class Choices:
    """Questions with their answers, as rows for the models.

    A question whose answers are one token each, after the same prompt, is one row; else every pair is one.

    Attributes:
        heldout_Q: The held-out row of each question.
        right_Q: Which of its answers is right, from 0.
        first_pair: Where each question's pairs begin, and after the last where they end, int64 (Q + 1,).
        num_tokens_P: Tokens of each pair's answer.
        label_rows: Prompts whose one target is the place where the answer would begin.
        label_questions: The question of each of these rows.
        label_tokens: The tokens that it chooses from, in the order of its answers.
        pair_rows: Prompts with an answer; only the answer's tokens are targets, not the end of text after it.
        pairs: The pair of each of these rows.
    """

    heldout_Q: np.ndarray
    right_Q: np.ndarray
    first_pair: np.ndarray
    num_tokens_P: np.ndarray
    label_rows: Rows
    label_questions: tuple[int, ...]
    label_tokens: tuple[tuple[int, ...], ...]
    pair_rows: Rows
    pairs: tuple[int, ...]

    def owners(self, questions: Sequence[int], heldout_clients: np.ndarray) -> np.ndarray:
        """Return the client of each of some questions, int64."""
        return heldout_clients[self.heldout_Q[np.array(questions, dtype=np.int64)]]

    @property
    def pair_questions(self) -> tuple[int, ...]:
        """The question of each of `pair_rows`."""
        return tuple((np.searchsorted(self.first_pair, self.pairs, side="right") - 1).tolist())


@dataclass(frozen=True)
class Prompts:
    """Prompts to be answered in full.

    Attributes:
        heldout_Q: The held-out row of each.
        rows: The prompts; the one target is the place where the response would begin.
        responses: What should come.
        tokenizer: Turns tokens into text.
    """

    heldout_Q: np.ndarray
    rows: Rows
    responses: tuple[str, ...]
    tokenizer: TextTokenizer


@dataclass(frozen=True)
class Questions:
    """What a run asks of its held-out documents; None = nothing of that kind."""

    choices: Choices | None = None
    prompts: Prompts | None = None


def picked_metrics(metrics: Sequence[str] | str, data: FederatedData) -> tuple[str, ...]:
    """Return what is measured; "auto" is the loss, and accuracy where held-out documents have choices.

    Raises:
        DataError: If no held-out document can be asked what a metric needs.
    """
    has_choices = any(document.choices for document in data.heldout_documents)
    if metrics == "auto":
        return ("loss", "accuracy") if has_choices else ("loss",)
    if "accuracy" in metrics and not has_choices:
        raise DataError(
            "evaluate.metrics has accuracy, but no held-out document has choices to pick an answer from. Name them in "
            "data.fields, or leave accuracy out."
        )
    if "exact_match" in metrics and not any(document.prompt is not None for document in data.heldout_documents):
        raise DataError(
            "evaluate.metrics has exact_match, but no held-out document has a prompt and a response. Name them in "
            "data.fields, or leave exact_match out."
        )
    return tuple(metrics)


def make_questions(
    data: FederatedData, tokenizer: TextTokenizer, options: DataConfig, evaluate: EvaluateConfig
) -> Questions:
    """Tokenise what the held-out documents ask.

    Args:
        data: The held-out rows with their documents.
        tokenizer: The fleet's tokenizer.
        options: Section `data`.
        evaluate: Section `evaluate`, its metrics picked.
    """
    return Questions(
        choices=_choices(data, tokenizer, options) if "accuracy" in evaluate.metrics else None,
        prompts=_prompts(data, tokenizer, options) if "exact_match" in evaluate.metrics else None,
    )


def questions_of_types(
    data_of_type: Sequence[FederatedData],
    tokenizers: Sequence[TextTokenizer],
    options: DataConfig,
    evaluate: EvaluateConfig,
) -> tuple[Questions, ...]:
    """Return each model type's questions, in its own tokens; one object where types see the same data."""
    made: dict[int, Questions] = {}
    for data, tokenizer in zip(data_of_type, tokenizers, strict=True):
        if id(data) not in made:
            made[id(data)] = make_questions(data, tokenizer, options, evaluate)
    return tuple(made[id(data)] for data in data_of_type)


def label_tokens(data: FederatedData, tokenizer: TextTokenizer, options: DataConfig) -> tuple[int, ...]:
    """Return the tokens that occur in class names as responses, without what ends them: first those that begin one.

    Raises:
        DataError: If the data has no classes.
    """
    asked = next((document for document in data.heldout_documents if document.choices), None)
    if not data.label_names or asked is None:
        raise DataError(
            "heterotune.head_outputs = labels needs classes, and the data has none. Name them in data.fields "
            "({text, label}), or set head_outputs: vocabulary."
        )
    answered = [replace(asked, response=name) for name in data.label_names]
    rows = without_end(make_rows(answered, tokenizer, max_tokens=options.max_tokens), end_ids(tokenizer))
    names = [targets[targets != IGNORED].tolist() for targets in rows.targets]
    in_order = [*(name[0] for name in names), *(token for name in names for token in name[1:])]
    return tuple(dict.fromkeys(in_order))


def end_ids(tokenizer: TextTokenizer) -> frozenset[int]:
    """Return the tokens that end an answer: the end of text, or of a turn."""
    return tokenizer.special_ids() | {tokenizer.eos_id}


def _choices(data: FederatedData, tokenizer: TextTokenizer, options: DataConfig) -> Choices:
    asked = [(i, document) for i, document in enumerate(data.heldout_documents) if document.choices]
    answered = [replace(document, response=choice) for _, document in asked for choice in document.choices]
    rows = without_end(make_rows(answered, tokenizer, max_tokens=options.max_tokens), end_ids(tokenizer))
    first_pair = np.cumsum([0, *(len(document.choices) for _, document in asked)])
    picks = [np.arange(*first_pair[q : q + 2]) for q in range(len(asked))]
    labels = [q for q, pick in enumerate(picks) if _differ_in_one_token(rows, pick)]
    pairs = np.concatenate([pick for q, pick in enumerate(picks) if q not in set(labels)] or [np.empty(0, np.int64)])
    label_rows = rows.take(np.array([first_pair[q] for q in labels], dtype=np.int64))
    return Choices(
        heldout_Q=np.array([i for i, _ in asked], dtype=np.int64),
        right_Q=np.array([document.choices.index(document.response) for _, document in asked], dtype=np.int64),
        first_pair=first_pair,
        num_tokens_P=(rows.targets != IGNORED).sum(axis=1),
        label_rows=label_rows,
        label_questions=tuple(labels),
        label_tokens=tuple(tuple(rows.targets[picks[q]].max(axis=1).tolist()) for q in labels),
        pair_rows=rows.take(pairs),
        pairs=tuple(pairs.tolist()),
    )


def without_end(rows: Rows, ends: Collection[int]) -> Rows:
    """Return rows in which what ends an answer is no target: answers are compared, not their ends.

    That is one of `ends` among the last two of a row (a chat template may end the line after it), and what follows.
    """
    targets, lengths = rows.targets.copy(), rows.lengths.copy()
    for row, length in enumerate(lengths.tolist()):
        num_targets = int((targets[row] != IGNORED).sum())
        last = [place for place in (length - 2, length - 1) if place >= 0 and int(targets[row, place]) in ends]
        if last and num_targets > length - last[0]:
            targets[row, last[0] : length] = IGNORED
            lengths[row] = last[0]
    return replace(rows, targets=targets, lengths=lengths)


def _differ_in_one_token(rows: Rows, picks: np.ndarray) -> bool:
    """Return whether answers are one token each, so that one row scores them all: they stand after one prompt."""
    return bool(((rows.targets[picks] != IGNORED).sum(axis=1) == 1).all())


def _prompts(data: FederatedData, tokenizer: TextTokenizer, options: DataConfig) -> Prompts:
    asked = [(i, document) for i, document in enumerate(data.heldout_documents) if document.prompt is not None]
    rows = make_rows([document for _, document in asked], tokenizer, max_tokens=options.max_tokens)
    return Prompts(
        heldout_Q=np.array([i for i, _ in asked], dtype=np.int64),
        rows=before_answers(rows),
        responses=tuple(document.response or "" for _, document in asked),
        tokenizer=tokenizer,
    )
