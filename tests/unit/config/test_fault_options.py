"""The sections about misbehaving clients and privacy: defaults, refusals, and what excludes what."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ValidationError

from heterotune.config import fault_options, field_types, privacy_options
from heterotune.config.fault_options import (
    AggregateOptions,
    Byzantine,
    MisbehaviourOptions,
    SlowClients,
    UpdateLimits,
    most_attackers,
)
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions
from heterotune.config.protection_checks import PROTECTION_CHECKS, cohort_problems

MODELS = [
    value
    for module in (fault_options, privacy_options)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value is not field_types.Section
]
NOISE = PrivacyOptions(mechanism="gaussian", clip_norm=1.0, noise_multiplier=2.0)
SECURE = SecureAggregationOptions(enabled=True)
OFF = SecureAggregationOptions()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model):
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description and info.description.strip().endswith("."), name


def test_by_default_nothing_is_asked_for():
    assert len(MODELS) == 8
    assert AggregateOptions().rule == "mean" and PrivacyOptions().mechanism == "none" and not OFF.enabled
    assert (UpdateLimits().faulty, UpdateLimits().max_norm) == ("quarantine", None)
    nothing = MisbehaviourOptions()
    assert (nothing.dropout, nothing.interrupted, nothing.slow, nothing.byzantine) == (0.0, None, None, None)


def test_hostile_clients_are_a_share_rounded_down_but_at_least_one():
    options = AggregateOptions(rule="trimmed_mean", attacker_share=0.29)
    assert [options.num_attackers(num_clients) for num_clients in (1, 3, 10, 100)] == [1, 1, 2, 29]
    assert AggregateOptions(rule="multi_krum").num_chosen(10) == 8
    assert AggregateOptions(rule="multi_krum", num_selected=3).num_chosen(10) == 3
    assert AggregateOptions(rule="krum").num_chosen(10) == 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("krum", [-1, 0, 0, 1, 3]), ("multi_krum", [-1, 0, 0, 1, 3]), ("trimmed_mean", [0, 1, 1, 2, 4])],
)
def test_the_most_hostile_clients_of_a_rule(rule, expected):
    assert [most_attackers(rule, num_clients) for num_clients in (2, 3, 4, 5, 9)] == expected


def test_shared_tensors_have_the_types_norm_unless_given():
    assert NOISE.clip_norms == {"type": 1.0, "shared": 1.0}
    own = PrivacyOptions(mechanism="gaussian", clip_norm=1.0, shared_clip_norm=0.5, noise_multiplier=2.0)
    assert own.clip_norms == {"type": 1.0, "shared": 0.5}


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (AggregateOptions, {"rule": "norm_clipping"}, "rule = norm_clipping needs max_norm. Give the longest"),
        (AggregateOptions, {"rule": "krum", "max_norm": 1.0}, "max_norm = 1.0 does nothing under rule = krum. Drop it"),
        (AggregateOptions, {"attacker_share": 0.5}, "less than 0.5"),
        (Byzantine, {"behaviour": "zero"}, "needs either share or clients. Give one of the two."),
        (Byzantine, {"behaviour": "zero", "share": 0.1, "clients": (1,)}, "needs either share or clients"),
        (Byzantine, {"behaviour": "zero", "clients": ()}, "is empty or repeats a client. List each client's id once."),
        (Byzantine, {"behaviour": "zero", "clients": (1, 1)}, "is empty or repeats a client"),
        (SlowClients, {}, "deadline_seconds\n  Field required"),
        (UpdateLimits, {"max_norm_factor": 1.0}, "greater than 1"),
        (
            PrivacyOptions,
            {"clip_norm": 1.0},
            "clip_norm does nothing under mechanism = none. Drop it, or set gaussian.",
        ),
        (PrivacyOptions, {"target_epsilon": 1.0}, "target_epsilon does nothing under mechanism = none"),
        (PrivacyOptions, {"mechanism": "gaussian", "noise_multiplier": 1.0}, "mechanism = gaussian needs clip_norm."),
        (PrivacyOptions, {"mechanism": "gaussian", "clip_norm": 1.0}, "mechanism = gaussian needs noise_multiplier."),
        (
            PrivacyOptions,
            {"mechanism": "gaussian", "clip_norm": 1.0, "noise_multiplier": "auto"},
            "noise_multiplier = auto and target_epsilon need each other. Give both, or a number.",
        ),
        (
            PrivacyOptions,
            {"mechanism": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.0, "target_epsilon": 2.0},
            "noise_multiplier = auto and target_epsilon need each other",
        ),
        (SecureAggregationOptions, {"threshold": 0.5}, "greater than 0.5"),
    ],
)
def test_refusals_within_a_section(model, values, message):
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        model(**values)


def problems(**sections) -> list[str]:
    found = []
    for check, needed in PROTECTION_CHECKS:
        if all(name in sections for name in needed):
            found += check(*(sections[name] for name in needed))
    return found


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"secure_aggregation": SECURE, "aggregate": AggregateOptions(rule="median")},
            "secure_aggregation hides single updates, and aggregate.rule = median compares them. Choose mean or",
        ),
        (
            {"secure_aggregation": SECURE, "updates": UpdateLimits(max_norm=3.0)},
            "secure_aggregation hides an update's norm from the server, so updates.max_norm = 3 cannot be checked.",
        ),
        (
            {"privacy": NOISE, "aggregate": AggregateOptions(rule="norm_clipping", max_norm=1.0)},
            "privacy.mechanism = gaussian bounds a client's part in the mean, not in norm_clipping. Set aggregate",
        ),
        (
            {"privacy": NOISE, "updates": UpdateLimits(max_norm_factor=2.0)},
            "updates.max_norm_factor = 2 makes one client's part depend on other clients, which privacy.mechanism =",
        ),
        (
            {"aggregate": AggregateOptions(rule="krum"), "collective": SimpleNamespace(topology="sharded")},
            "aggregate.rule = krum needs all updates of a model type in one place, and collective.topology = sharded",
        ),
        (
            {"secure_aggregation": SECURE, "collective": SimpleNamespace(topology="sharded")},
            "secure_aggregation unmasks a whole sum, and collective.topology = sharded spreads it. Set topology: root",
        ),
        (
            {
                "misbehaviour": MisbehaviourOptions(byzantine=Byzantine(behaviour="zero", clients=(1, 12))),
                "fleet": (SimpleNamespace(clients=8), SimpleNamespace(clients=4)),
            },
            "misbehaviour.byzantine.clients names client 12, and the fleet has 12. Name ids from 0 to 11.",
        ),
    ],
)
def test_what_excludes_what(sections, message):
    found = problems(**sections)
    assert len(found) == 1 and found[0].startswith(message)


def test_what_goes_together():
    sums = AggregateOptions(rule="norm_clipping", max_norm=1.0)
    root = SimpleNamespace(topology="root")
    fleet = (SimpleNamespace(clients=8),)
    hostile = MisbehaviourOptions(byzantine=Byzantine(behaviour="zero", clients=(7,)))
    assert problems(secure_aggregation=SECURE, aggregate=sums, updates=UpdateLimits(), collective=root) == []
    assert (
        problems(secure_aggregation=SECURE, aggregate=AggregateOptions(), privacy=NOISE, updates=UpdateLimits()) == []
    )
    assert problems(privacy=PrivacyOptions(), aggregate=sums, updates=UpdateLimits(max_norm_factor=2.0)) == []
    assert problems(aggregate=AggregateOptions(rule="krum"), collective=root, secure_aggregation=OFF) == []
    assert problems(misbehaviour=hostile, fleet=fleet) == []
    assert problems(misbehaviour=MisbehaviourOptions(), fleet=fleet) == []


@pytest.mark.parametrize(
    ("sizes", "aggregate", "secure", "min_clients", "message"),
    [
        (
            {"small": 9, "large": 4},
            AggregateOptions(rule="krum"),
            OFF,
            1,
            "aggregate.rule = krum with attacker_share = 0.2 cannot resist 1 hostile clients among the 4 of large in a",
        ),
        (
            {"small": 2},
            AggregateOptions(rule="trimmed_mean"),
            OFF,
            1,
            "aggregate.rule = trimmed_mean with attacker_share = 0.2 cannot resist 1 hostile clients among the 2 of",
        ),
        (
            {"small": 9},
            AggregateOptions(rule="multi_krum", num_selected=9),
            OFF,
            1,
            "aggregate.rule = multi_krum with attacker_share = 0.2 can choose 8 of the 9 clients of small in a round",
        ),
        ({"small": 9, "large": 1}, AggregateOptions(), SECURE, 1, "secure_aggregation needs 2 clients of large in a"),
        (
            {"small": 9},
            AggregateOptions(),
            OFF,
            10,
            "cohort.min_clients = 10 is more than the 9 clients of a full round",
        ),
    ],
)
def test_too_few_clients_in_a_round(sizes, aggregate, secure, min_clients, message):
    found = cohort_problems(sizes, aggregate, secure, min_clients=min_clients)
    assert len(found) == 1 and found[0].startswith(message)


def test_enough_clients_in_a_round():
    for rule in ("mean", "median", "trimmed_mean", "krum", "multi_krum"):
        assert cohort_problems({"a": 5, "b": 7}, AggregateOptions(rule=rule), SECURE, min_clients=12) == []
    assert cohort_problems({"a": 1}, AggregateOptions(rule="median"), OFF, min_clients=1) == []
