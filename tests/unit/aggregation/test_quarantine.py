"""Each reason to leave a client's update out, each policy, and what is counted."""

from __future__ import annotations

import math

import pytest
import torch

from heterotune.aggregation.quarantine import (
    REASONS,
    Verdict,
    judge_update,
    quarantine_metrics,
    refuse_faulty,
    round_goes_on,
    usual_norms,
)
from heterotune.config.fault_options import UpdateLimits
from heterotune.errors import AggregationError, TooFewClients

LIMITS = UpdateLimits(max_norm=10.0, max_norm_factor=3.0)


def judge(update, *, num_rows=5, limits=LIMITS, usual_norm=None, num_elements=2):
    update_P = torch.tensor(update)
    return judge_update(7, update_P, num_elements=num_elements, num_rows=num_rows, limits=limits, usual_norm=usual_norm)


def test_a_sound_update_counts():
    assert judge([3.0, 4.0]) == Verdict(7, norm=5.0) and judge([3.0, 4.0]).counts
    assert judge([3.0, 4.0], usual_norm=5.0 / 3.0).counts  # exactly at the limit
    assert judge([6.0, 8.0]).counts
    assert judge([4000.0, 3000.0], limits=UpdateLimits()) == Verdict(7)  # no limit by default, so no norm
    assert judge([], num_elements=0) == Verdict(7, norm=0.0)


@pytest.mark.parametrize(
    ("update", "others", "reason", "detail"),
    [
        ([1.0, 1.0], {"num_rows": 0}, "empty", "it has no rows"),
        ([1.0, 1.0, 1.0], {}, "wrong_shape", r"shape (3,), expected (2,)"),
        ([[1.0, 1.0]], {}, "wrong_shape", r"shape (1, 2), expected (2,)"),
        ([math.nan, 1.0], {}, "not_finite", "1 of 2 elements are not finite"),
        ([math.inf, -math.inf], {}, "not_finite", "2 of 2 elements are not finite"),
        ([8.0, 8.0], {}, "too_large", "norm 11.3137 is above max_norm = 10"),
        ([3.0, 4.0], {"usual_norm": 1.5}, "too_large", "norm 5 is above 3 times the usual 1.5"),
        ([-8192.0, 0.0], {"limits": UpdateLimits()}, "too_large", "an element reaches 8192, 8192 and above cannot"),
        ([3e38, 3e38], {"limits": UpdateLimits()}, "too_large", "an element reaches 3e+38"),
    ],
)
def test_each_reason(update, others, reason, detail):
    verdict = judge(update, **others)
    assert verdict.reason == reason and not verdict.counts
    assert verdict.detail.startswith(detail)
    refuse_faulty(verdict, LIMITS)  # quarantine is the default: nothing is raised


def test_the_first_reason_wins():
    assert judge([math.nan, 1.0, 1.0], num_rows=0).reason == "empty"
    assert judge([math.nan, 1.0, 1.0]).reason == "wrong_shape"


def test_faulty_updates_stop_a_run_that_asks_for_it():
    stop = UpdateLimits(faulty="stop")
    with pytest.raises(AggregationError, match=r"client 7: its update is refused \(not_finite: 1 of 2 .*quarantine\.$"):
        refuse_faulty(judge([math.nan, 1.0]), stop)
    for harmless in (judge([1.0, 1.0]), judge([1.0, 1.0], num_rows=0), Verdict(7, "dropped_out"), Verdict(7, "late")):
        refuse_faulty(harmless, stop)


def test_usual_norms_are_medians_of_what_counted():
    verdicts = [Verdict(1, norm=1.0), Verdict(2, norm=5.0), Verdict(3, norm=2.0), Verdict(4, "too_large", "", 99.0)]
    type_of_client = {1: 0, 2: 0, 3: 0, 4: 1}
    assert usual_norms(verdicts, type_of_client.__getitem__, {1: 0.5, 0: 7.0}) == {0: 2.0, 1: 0.5}
    assert usual_norms([], type_of_client.__getitem__, {}) == {}


def test_every_reason_is_counted_zeros_included():
    verdicts = [Verdict(1, norm=1.0), Verdict(2, "late"), Verdict(3, "late"), Verdict(4, "not_finite")]
    counts = {entry["name"]: entry["value"] for entry in quarantine_metrics(verdicts)}
    assert counts == {f"clients/{reason}": 0 for reason in REASONS} | {
        "clients/counted": 1,
        "clients/late": 2,
        "clients/not_finite": 1,
    }
    assert all(entry["unit"] == "clients" for entry in quarantine_metrics([]))


def test_too_few_clients_skip_the_round_or_stop_the_run():
    assert round_goes_on(3, min_clients=3, too_few="stop", round_number=4)
    assert not round_goes_on(2, min_clients=3, too_few="skip", round_number=4)
    with pytest.raises(TooFewClients, match="round 4: 2 clients counted, cohort.min_clients is 3. Raise cohort"):
        round_goes_on(2, min_clients=3, too_few="stop", round_number=4)
