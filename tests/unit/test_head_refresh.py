"""When the head branch is refreshed, and what cannot be asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heterotune.config.method_options import HeterotuneOptions

ANSWERS = {"head_outputs": "labels", "align_positions": "answer", "head_scope": "type"}


def test_it_is_done_after_every_so_many_rounds_also_the_last():
    options, rounds = HeterotuneOptions(**ANSWERS, realign_every=2, distill_every=3), range(1, 7)
    assert [number for number in rounds if options.realigns(number)] == [2, 4, 6]
    assert [number for number in rounds if options.distills(number)] == [3, 6]
    never = HeterotuneOptions()
    assert not any(never.realigns(number) or never.distills(number) for number in rounds)


@pytest.mark.parametrize(
    "left_out", [{"head_outputs": "vocabulary"}, {"align_positions": "all"}, {"head_scope": "fleet"}, {"head_rank": 0}]
)
def test_answers_are_compared_where_they_begin_among_labels_and_between_heads(left_out):
    with pytest.raises(
        ValidationError, match="distill_every = 2 lets head branches learn .* Set head_outputs: labels, "
    ):
        HeterotuneOptions(**{**ANSWERS, "distill_every": 2, **left_out})
