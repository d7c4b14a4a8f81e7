"""Updates that meet at the root one by one, and clipped ones before a sum."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.aggregation.robust import robust_update
from heterotune.collective.single import SingleChannel
from heterotune.config.fault_options import AggregateOptions
from heterotune.single_updates import KeptUpdates, gather_robust
from heterotune.topology import CohortCounts
from heterotune.uplink import ClippedSum

LAYOUT = AdapterLayout(
    "a",
    (
        TensorSpec("own", (2,), "client", "", "dema.client", "0"),
        TensorSpec("w.V", (3,), "type", "type/a/w.V", "dema.type", "0"),
        TensorSpec("head.S", (4,), "fleet", "fleet/head.S", "dema.head", "head"),
    ),
)
IDS = [9, 2, 5, 7, 3]
ROWS = {client_id: 10 + client_id for client_id in IDS}


def gather(options: AggregateOptions, num_clients: int = 5):
    update_KP = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))[:num_clients]
    kept, ids = KeptUpdates(), IDS[:num_clients]
    for place in range(num_clients):
        kept.add(update_KP[place : place + 1], torch.zeros(1), ids[place : place + 1])
    total = sum(ROWS[client_id] for client_id in ids)
    found = gather_robust(
        {0: kept}, [LAYOUT], CohortCounts({0: num_clients}, {0: total}), ROWS, options, SingleChannel()
    )
    weight_K = torch.tensor([ROWS[client_id] / total for client_id in ids], dtype=torch.float64)
    assert kept.take() == b""
    return found, update_KP, weight_K


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_updates_come_to_the_rule_whole_and_in_any_order(rule):
    options = AggregateOptions(rule=rule)
    found, update_KP, weight_K = gather(options)
    wanted_P, chosen = robust_update(update_KP, weight_K, IDS, options)
    (update,) = found.updates
    assert (update.model_type, update.weight) == ("a", sum(ROWS.values()))
    for spec in LAYOUT.travelling:
        assert torch.equal(update.mean[spec.key], wanted_P[LAYOUT.travelling_columns[spec.name]])
    assert {entry["name"]: entry["value"] for entry in found.metrics} == {
        "aggregate/too_few": 0,
        "aggregate/chosen": len(chosen),
    }


def test_a_type_with_too_few_clients_is_left_out():
    found, _, _ = gather(AggregateOptions(rule="krum"), num_clients=4)
    assert found.updates == []
    assert [(entry["name"], entry["value"]) for entry in found.metrics] == [("aggregate/too_few", 1)]


@pytest.mark.parametrize(("rule", "least"), [("mean", 1), ("median", 1), ("trimmed_mean", 3), ("krum", 5)])
def test_the_fewest_clients_of_a_rule(rule, least):
    options = AggregateOptions(rule=rule)
    assert [options.is_enough(num_clients) for num_clients in (least - 1, least)] == [False, True]


def test_long_updates_weigh_less_before_a_sum():
    update_KP, weight_K = torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([0.5, 0.5], dtype=torch.float64)
    clipped, plain = ExactSum(2), ExactSum(2)
    ClippedSum(clipped, 1.0).add(update_KP, weight_K, [1, 2])
    plain.add(update_KP, torch.tensor([0.1, 0.5], dtype=torch.float64), [1, 2])
    assert torch.equal(clipped.sum_P, plain.sum_P)
