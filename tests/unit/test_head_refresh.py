"""When the head branch is refreshed, and what cannot be asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heterotune.config.heterotune_options import HeterotuneOptions

ANSWERS = {"head_outputs": "labels", "align_positions": "answer", "head_scope": "type"}


def settled(options, **facts):
    run = {"asks_questions": True, "families": ("small", "large"), "rounds": 20, "optimizer": "adamw", "narrowest": 96}
    return HeterotuneOptions(**options).settled(**{**run, **facts})


def test_it_is_done_after_every_so_many_rounds_also_the_last():
    options, rounds = HeterotuneOptions(**ANSWERS, realign_every=2, distill_every=3), range(1, 7)
    assert [number for number in rounds if options.realigns(number)] == [2, 4, 6]
    assert [number for number in rounds if options.distills(number)] == [3, 6]
    never = settled({}, asks_questions=False)
    assert not any(never.realigns(number) or never.distills(number) for number in rounds)


NAMES = ("head_scope", "head_outputs", "head_rank", "align", "align_positions", "align_tokens", "distill_every")


@pytest.mark.parametrize(
    ("options", "asks_questions", "form"),
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
def test_the_form_of_the_head_follows_the_data_and_what_is_said(options, asks_questions, form):
    found = settled(options, asks_questions=asks_questions)
    assert tuple(getattr(found, name) for name in NAMES) == form


def test_a_type_alone_learns_from_nobody_and_a_run_ends_with_a_lesson():
    alone = settled({}, families=("small",))
    assert (alone.distill_every, alone.head_scope) == (0, "fleet")
    periods = {rounds: settled({}, rounds=rounds).distill_every for rounds in (1, 2, 3, 5, 7, 8, 10, 18, 22, 23, 100)}
    assert periods == {1: 1, 2: 2, 3: 3, 5: 5, 7: 1, 8: 4, 10: 5, 18: 3, 22: 2, 23: 1, 100: 4}
    assert settled({"distill_every": 5}, rounds=2).distill_every == 5


@pytest.mark.parametrize(
    ("families", "form"),
    [
        (("large", "large"), ("width", "labels", 32, "gcca", "answer", 512, 0)),
        (("large", "small", "large"), ("width", "labels", 64, "gcca_shrunk", "answer", 512, 4)),
    ],
)
def test_siblings_that_share_the_only_head_learn_nothing_from_it(families, form):
    found = settled({"head_scope": "width"}, families=families)
    assert tuple(getattr(found, name) for name in NAMES) == form
    assert settled({}, families=families).distill_every == 4  # each type has its own


@pytest.mark.parametrize(
    ("options", "facts", "head_rank"),
    [
        ({}, {"narrowest": 48}, 48),
        ({}, {"narrowest": 48, "asks_questions": False}, 32),
        ({}, {"narrowest": 24, "asks_questions": False}, 24),
        ({"head_basis": 8}, {"asks_questions": False}, 8),
        ({"head_basis": 8}, {}, 64),  # the run sets it by the class names
        ({"head_rank": 64}, {"narrowest": 48}, 64),  # refused later
        ({}, {"narrowest": None}, "auto"),
    ],
)
def test_the_heads_rank_fits_the_narrowest_model_unless_it_is_given(options, facts, head_rank):
    found = settled(options, **facts)
    assert found.head_rank == head_rank
    assert found.distill_every == (4 if facts.get("asks_questions", True) else 0)


@pytest.mark.parametrize(("optimizer", "steps"), [("adamw", 32), ("sgd", 0), ("momentum", 0)])
def test_the_servers_lesson_is_for_clients_that_train_as_it_does(optimizer, steps):
    found = settled({}, optimizer=optimizer)
    assert (found.distill_steps, found.distill_every) == (steps, 4)
    assert settled({"distill_steps": 5}, optimizer=optimizer).distill_steps == 5


@pytest.mark.parametrize(
    "left_out", [{"head_outputs": "vocabulary"}, {"align_positions": "all"}, {"head_scope": "fleet"}, {"head_rank": 0}]
)
def test_answers_are_compared_where_they_begin_among_labels_and_between_heads(left_out):
    with pytest.raises(
        ValidationError, match="distill_every = 2 lets head branches learn .* Set head_outputs: labels, "
    ):
        HeterotuneOptions(**{**ANSWERS, "distill_every": 2, **left_out})
