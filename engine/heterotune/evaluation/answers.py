"""Accuracy: the answer with the highest likelihood is the model's, and it is right or not.

Legend: Q questions, P pairs of a question and one of its answers.
Source: multiple choice by likelihood as in lm-evaluation-harness; "mean" divides by tokens, its acc_norm by bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.data.questions import Choices
from heterotune.evaluation.passes import NO_ROW, RowPass
from heterotune.evaluation.probes import PassScore, Probe, Score
from heterotune.training.objective import ChunkBatch, log_probabilities, token_losses

LABELS, PAIRS = "labels", "pairs"


def label_score(choices: Choices) -> Score:
    """Return what scores questions with one-token answers: the log-probabilities of these tokens, row after row."""

    def score(backbone: Backbone, bank: Bank, batch: ChunkBatch, row_pass: RowPass | None) -> list[float]:
        found_NV = log_probabilities(backbone, bank, batch)
        rows = () if row_pass is None else [row for row in row_pass.rows if row != NO_ROW]
        tokens = [choices.label_tokens[row] for row in rows]
        return [
            value for of_row, picks in zip(found_NV, tokens, strict=False) for value in of_row[list(picks)].tolist()
        ]

    return score


def score_pairs(backbone: Backbone, bank: Bank, batch: ChunkBatch, row_pass: RowPass | None) -> list[float]:
    """Return the log-likelihood of each row's answer, those of rows that fill up included."""
    return (-token_losses(backbone, bank, batch).double().sum(dim=1)).tolist()


def likelihoods(choices: Choices, by_probe: Iterable[tuple[Probe, Sequence[PassScore]]]) -> np.ndarray:
    """Put the log-likelihoods of all pairs together, float64 (P,); NaN where nobody asked.

    Args:
        choices: The questions.
        by_probe: The probes named `LABELS` or `PAIRS` at the end, each with the scores of its passes in their order.
    """
    found_P = np.full(len(choices.num_tokens_P), np.nan)
    for probe, scores in by_probe:
        for row_pass, score in zip(probe.passes, scores, strict=True):
            if probe.name.endswith(LABELS):
                found_P[_label_pairs(choices, row_pass)] = score.values
                continue
            for row, value in zip(row_pass.rows, score.values, strict=True):
                if row != NO_ROW:
                    found_P[choices.pairs[row]] = value
    return found_P


def right_answers(choices: Choices, likelihood_P: np.ndarray, how: Literal["sum", "mean"]) -> dict[int, bool]:
    """Return for each question that was asked, by its held-out row, whether the likeliest answer is the right one.

    Of equally likely answers the first counts. A likelihood that is no number is never the highest.
    """
    score_P = likelihood_P / choices.num_tokens_P if how == "mean" else likelihood_P
    found = {}
    for question, heldout in enumerate(choices.heldout_Q.tolist()):
        mine = score_P[choices.first_pair[question] : choices.first_pair[question + 1]]
        best = int(np.where(np.isnan(mine), -np.inf, mine).argmax())
        found[heldout] = best == choices.right_Q[question] and not np.isnan(mine).all()
    return found


def _label_pairs(choices: Choices, row_pass: RowPass) -> np.ndarray:
    """Return the pairs that a pass of prompts scores, in the order of its values."""
    questions = [choices.label_questions[row] for row in row_pass.rows if row != NO_ROW]
    return np.concatenate([np.arange(choices.first_pair[q], choices.first_pair[q + 1]) for q in questions])
