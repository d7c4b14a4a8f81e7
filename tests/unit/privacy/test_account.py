"""What a run has spent, and the noise that a target needs, over model types with cohorts of their own."""

from __future__ import annotations

import sys

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import SCALE, ExactSum
from heterotune.config.privacy_options import PrivacyOptions
from heterotune.errors import ConfigError
from heterotune.privacy.account import PrivacyAccount, picked_noise
from heterotune.privacy.accountant import SampledGaussian, spent_epsilon
from heterotune.uplink import PrivateSum

OWN = TensorSpec("w", (3,), "type", "type/a/w", "dema.type", "0")
SHARED = TensorSpec("head", (4,), "fleet", "fleet/head", "dema.head", "head")
LAYOUTS = [AdapterLayout("a", (OWN, SHARED)), AdapterLayout("b", (SHARED,))]
POPULATIONS = {0: (20, 20), 1: (30, 30)}  # sampling takes time; test_accountant.py has it
OPTIONS = PrivacyOptions(mechanism="gaussian", clip_norm=1.0, noise_multiplier=8.0)


def test_each_type_has_its_own_epsilon_and_the_fleet_that_of_the_worst():
    pytest.importorskip("dp_accounting")
    account = PrivacyAccount(OPTIONS, LAYOUTS, POPULATIONS)
    assert account.epsilons() == {"a": 0.0, "b": 0.0}
    account.num_rounds = 5
    wanted = [
        spent_epsilon(SampledGaussian(*POPULATIONS[place], num_parts, 8.0), num_rounds=5, delta=1e-5)
        for place, num_parts in ((0, 2), (1, 1))
    ]
    assert list(account.epsilons().values()) == wanted
    lines = [(line["name"], line.get("model_type"), line["value"]) for line in account.metrics()]
    assert lines == [
        ("privacy/epsilon", "a", wanted[0]),
        ("privacy/epsilon", "b", wanted[1]),
        ("privacy/epsilon", None, max(wanted)),
        ("privacy/noise_multiplier", None, 8.0),
    ]


def test_auto_is_what_the_worst_type_needs():
    pytest.importorskip("dp_accounting")
    wanted = OPTIONS.model_copy(update={"noise_multiplier": "auto", "target_epsilon": 2.0})
    picked = picked_noise(wanted, LAYOUTS, POPULATIONS, num_rounds=4)
    assert picked.target_epsilon is None and PrivacyOptions(**picked.model_dump()) == picked
    account = PrivacyAccount(picked, LAYOUTS, POPULATIONS)
    account.num_rounds = 4
    assert 1.99 < max(account.epsilons().values()) <= 2.0
    assert picked_noise(OPTIONS, LAYOUTS, POPULATIONS, num_rounds=4) == OPTIONS


def test_noise_that_sums_cannot_hold_is_refused():
    loud = OPTIONS.model_copy(update={"noise_multiplier": 1e6})
    with pytest.raises(ConfigError, match="leaves the range of exact sums"):
        picked_noise(loud, LAYOUTS, POPULATIONS, num_rounds=4)


def test_a_missing_library_is_an_error_of_the_run_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match="needs the package dp-accounting") as caught:
        picked_noise(OPTIONS, LAYOUTS, POPULATIONS, num_rounds=4)
    assert caught.value.exit_code == 2


def test_before_a_sum_all_clients_weigh_the_same_and_none_is_long():
    exact = ExactSum(7)
    rows_KP = torch.tensor([[0.0, 0, 0, 0, 6, 8, 0], [0.1, 0, 0, 0, 0, 0, 0]])
    intake = PrivateSum(exact, LAYOUTS[0], {"type": 1.0, "shared": 1.0}, num_drawn=4)
    intake.add(rows_KP, torch.tensor([0.9, 0.1], dtype=torch.float64), [1, 2])
    added = [round(value, 5) for value in (exact.sum_P.double() / SCALE).tolist()]
    columns = LAYOUTS[0].travelling_columns
    assert exact.counters == [2, int(SCALE) // 2]
    assert max(added) <= 0.25 and sum(value != 0 for value in added) == 3
    assert columns.keys() == {"w", "head"}
