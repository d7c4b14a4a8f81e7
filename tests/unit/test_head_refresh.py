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
    never = HeterotuneOptions().settled(asks_questions=False, num_types=2, rounds=9)
    assert not any(never.realigns(number) or never.distills(number) for number in rounds)


NAMES = ("head_scope", "head_outputs", "head_rank", "align", "align_positions", "align_tokens", "distill_every")


@pytest.mark.parametrize(
    ("options", "asks_questions", "settled"),
    [
        ({}, False, ("fleet", "vocabulary", 32, "gcca", "all", 4096, 0)),
        ({}, True, ("type", "labels", 64, "gcca_shrunk", "answer", 512, 4)),
        ({"distill_every": 0}, True, ("fleet", "labels", 32, "gcca", "answer", 512, 0)),
        ({"distill_every": 2}, False, ("type", "labels", 64, "gcca_shrunk", "answer", 512, 2)),
        ({"head_scope": "width", "align": "pca"}, True, ("width", "labels", 64, "pca", "answer", 512, 4)),
        ({"head_scope": "fleet"}, True, ("fleet", "labels", 32, "gcca", "answer", 512, 0)),
        ({"head_outputs": "vocabulary", "align_tokens": 9}, True, ("fleet", "vocabulary", 32, "gcca", "answer", 9, 0)),
        ({"align_positions": "all"}, True, ("fleet", "labels", 32, "gcca", "all", 4096, 0)),
        ({"head_rank": 0}, True, ("fleet", "labels", 0, "gcca", "answer", 512, 0)),
    ],
)
def test_the_form_of_the_head_follows_the_data_and_what_is_said(options, asks_questions, settled):
    found = HeterotuneOptions(**options).settled(asks_questions=asks_questions, num_types=2, rounds=9)
    assert tuple(getattr(found, name) for name in NAMES) == settled


def test_a_type_alone_learns_from_nobody_and_a_short_run_once():
    alone = HeterotuneOptions().settled(asks_questions=True, num_types=1, rounds=9)
    assert (alone.distill_every, alone.head_scope) == (0, "fleet")
    assert HeterotuneOptions().settled(asks_questions=True, num_types=2, rounds=2).distill_every == 2
    assert HeterotuneOptions(distill_every=5).settled(asks_questions=True, num_types=2, rounds=2).distill_every == 5


@pytest.mark.parametrize(
    "left_out", [{"head_outputs": "vocabulary"}, {"align_positions": "all"}, {"head_scope": "fleet"}, {"head_rank": 0}]
)
def test_answers_are_compared_where_they_begin_among_labels_and_between_heads(left_out):
    with pytest.raises(
        ValidationError, match="distill_every = 2 lets head branches learn .* Set head_outputs: labels, "
    ):
        HeterotuneOptions(**{**ANSWERS, "distill_every": 2, **left_out})
