"""When the head branch is refreshed, and what cannot be asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heterotune.config.heterotune_options import HeterotuneOptions

ANSWERS = {"head_outputs": "labels", "align_positions": "answer", "head_scope": "type"}


def test_it_is_done_after_every_so_many_rounds_also_the_last():
    options, rounds = HeterotuneOptions(**ANSWERS, realign_every=2, distill_every=3), range(1, 7)
    assert [number for number in rounds if options.realigns(number)] == [2, 4, 6]
    assert [number for number in rounds if options.distills(number)] == [3, 6]
    never = HeterotuneOptions().settled(asks_questions=False)
    assert not any(never.realigns(number) or never.distills(number) for number in rounds)


def head_of(options, asks_questions):
    settled = HeterotuneOptions(**options).settled(asks_questions=asks_questions)
    names = ("head_scope", "head_outputs", "align", "align_positions", "align_tokens", "distill_every")
    return tuple(getattr(settled, name) for name in names)


@pytest.mark.parametrize(
    ("options", "asks_questions", "settled"),
    [
        ({}, False, ("fleet", "vocabulary", "gcca", "all", 4096, 0)),
        ({}, True, ("type", "labels", "gcca_shrunk", "answer", 512, 4)),
        ({"distill_every": 0}, True, ("fleet", "labels", "gcca", "answer", 512, 0)),
        ({"distill_every": 2}, False, ("type", "labels", "gcca_shrunk", "answer", 512, 2)),
        ({"head_scope": "width", "align": "pca"}, True, ("width", "labels", "pca", "answer", 512, 4)),
        ({"head_scope": "fleet"}, True, ("fleet", "labels", "gcca", "answer", 512, 0)),
        ({"head_outputs": "vocabulary", "align_tokens": 9}, True, ("fleet", "vocabulary", "gcca", "answer", 9, 0)),
        ({"align_positions": "all"}, True, ("fleet", "labels", "gcca", "all", 512, 0)),
        ({"head_rank": 0}, True, ("fleet", "labels", "gcca", "answer", 512, 0)),
    ],
)
def test_the_form_of_the_head_follows_the_data_and_what_is_said(options, asks_questions, settled):
    assert head_of(options, asks_questions) == settled


@pytest.mark.parametrize(
    "left_out", [{"head_outputs": "vocabulary"}, {"align_positions": "all"}, {"head_scope": "fleet"}, {"head_rank": 0}]
)
def test_answers_are_compared_where_they_begin_among_labels_and_between_heads(left_out):
    with pytest.raises(
        ValidationError, match="distill_every = 2 lets head branches learn .* Set head_outputs: labels, "
    ):
        HeterotuneOptions(**{**ANSWERS, "distill_every": 2, **left_out})
