"""Whose updates count, and what the means of fewer clients are scaled by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.single import SingleChannel
from heterotune.config.cohort_options import CohortConfig
from heterotune.config.fault_options import AggregateOptions, MisbehaviourOptions, UpdateLimits
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions
from heterotune.errors import TooFewClients
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import make_population
from heterotune.protection import Protection
from heterotune.round_outcome import agree_on_outcome
from heterotune.round_plan import RoundPlan

FLEET = make_population([4, 5], [*range(10, 17), 0, 0])
CLIENTS = FLEET.clients(range(7))
CHUNKS = (Chunk(0, tuple(CLIENTS[1:4]), (1,) * 3), Chunk(1, tuple(CLIENTS[4:6]), (1,) * 2))
PLAN = RoundPlan(3, CHUNKS, (CHUNKS,), {CLIENTS[6]: "late", CLIENTS[0]: "dropped_out"})


def outcome(refused: dict[int, str], norm: float | None = None):
    mine = [
        Verdict(number, refused.get(number), "why" if number in refused else "", norm) for number in (5, 3, 1, 2, 4)
    ]
    return agree_on_outcome(PLAN, mine, SingleChannel())


def protection(**changes: object) -> Protection:
    options = {"cohort": CohortConfig(), "updates": UpdateLimits(), "misbehaviour": MisbehaviourOptions(), "seed": 0}
    options |= {"aggregate": AggregateOptions(), "privacy": PrivacyOptions()}
    options["secure_aggregation"] = SecureAggregationOptions()
    return Protection(SimpleNamespace(**{**options, **changes}), FLEET, [], SimpleNamespace(is_root=True))


def test_all_that_train_count_and_nothing_is_scaled():
    found = outcome({})
    assert [verdict.client_id for verdict in found.verdicts] == list(range(7))
    assert (found.verdicts[0].reason, found.verdicts[6].reason) == ("dropped_out", "late")
    assert (found.counts.num_clients, found.counts.weight) == ({0: 3, 1: 2}, {0: 36, 1: 29})
    assert found.counts.scale == {} and found.num_counted == 5


def test_the_mean_of_those_that_count_is_scaled_up():
    found = outcome({2: "not_finite", 4: "too_large", 5: "wrong_shape"})
    assert (found.counts.num_clients, found.counts.weight) == ({0: 2, 1: 0}, {0: 24, 1: 0})
    assert found.counts.scale == {0: 36 / 24}


def test_a_refused_client_is_named_and_counted(caplog):
    found = outcome({2: "not_finite"})
    own = protection()
    assert own.goes_on(found, 3)
    assert "client 2: not_finite: why" in caplog.text
    metrics = {entry["name"]: entry["value"] for entry in own.metrics(found, goes_on=True)}
    assert metrics == {
        "clients/counted": 4,
        "clients/dropped_out": 1,
        "clients/interrupted": 0,
        "clients/late": 1,
        "clients/empty": 2,
        "clients/wrong_shape": 0,
        "clients/not_finite": 1,
        "clients/too_large": 0,
        "round/skipped": 0,
    }


def test_a_run_that_asks_for_nothing_and_loses_nobody_has_no_such_metrics():
    plan = RoundPlan(3, CHUNKS, (CHUNKS,))
    found = agree_on_outcome(plan, [Verdict(client.client_id) for client in plan.trained], SingleChannel())
    assert protection().metrics(found, goes_on=True) == []
    assert protection(updates=UpdateLimits(max_norm=1.0)).metrics(found, goes_on=True) != []


def test_too_few_clients_skip_or_stop():
    found = outcome({2: "not_finite"})
    assert not protection(cohort=CohortConfig(min_clients=5)).goes_on(found, 3)
    with pytest.raises(TooFewClients, match="round 3: 4 clients counted, cohort.min_clients is 5"):
        protection(cohort=CohortConfig(min_clients=5, too_few="stop")).goes_on(found, 3)


def test_usual_norms_are_kept_over_a_resume():
    own, later = protection(), protection()
    own.goes_on(outcome({}, norm=0.1), 3)
    later.restore(own.state())
    assert later.usual_norms == {0: 0.1, 1: 0.1} and later.checks(1).usual_norm == 0.1
    later.restore({})
    assert later.checks(1).usual_norm is None
