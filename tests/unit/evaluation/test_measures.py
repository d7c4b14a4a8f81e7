"""The metrics that measures become."""

from __future__ import annotations

import math

import pytest

from heterotune.evaluation.measures import Measure, fleet_metrics, mean_of_clients, perplexity, spread, type_metrics

LOSS = Measure("loss", "eval", 2.0, {7: 1.0, 3: 4.0})
ACCURACY = Measure("accuracy", "personal", 0.5, {3: 0.25, 7: 0.75})


def test_a_model_type_has_its_figures_its_clients_the_worst_and_the_spread() -> None:
    entries = list(type_metrics("small", [LOSS, ACCURACY]))
    assert all(entry.pop("model_type") == "small" for entry in entries)
    assert entries == [
        {"name": "loss/eval", "value": 2.0, "unit": "nats/token"},
        {"name": "perplexity/eval", "value": math.exp(2.0), "unit": "1"},
        {"name": "accuracy/personal", "value": 0.5, "unit": "share"},
        {"name": "loss/client", "client": 3, "value": 4.0, "unit": "nats/token"},
        {"name": "loss/client", "client": 7, "value": 1.0, "unit": "nats/token"},
        {"name": "loss/worst_client", "value": 4.0, "unit": "nats/token"},
        {"name": "loss/client_spread", "value": 1.5, "unit": "nats/token"},
        {"name": "accuracy/personal_client", "client": 3, "value": 0.25, "unit": "share"},
        {"name": "accuracy/personal_client", "client": 7, "value": 0.75, "unit": "share"},
        {"name": "accuracy/personal_worst_client", "value": 0.25, "unit": "share"},
        {"name": "accuracy/personal_client_spread", "value": 0.25, "unit": "share"},
    ]


def test_classes_have_lines_of_their_own_where_they_were_asked_for() -> None:
    measure = Measure("accuracy", "eval", 0.5, of_label={"b": 0.25, "a": 0.75})
    assert list(type_metrics("small", [measure]))[1:] == [
        {"name": "accuracy/label", "model_type": "small", "label": "a", "value": 0.75, "unit": "share"},
        {"name": "accuracy/label", "model_type": "small", "label": "b", "value": 0.25, "unit": "share"},
    ]


def test_clients_own_adapters_on_the_same_rows_have_a_mean_and_lines_of_their_own() -> None:
    by_client = {
        client: [Measure("loss", "eval", value), Measure("accuracy", "eval", share, of_label={"a": share})]
        for client, value, share in ((3, 1.0, 0.25), (5, 3.0, 0.75))
    }
    loss, accuracy = mean_of_clients(by_client)
    assert loss == Measure("loss", "own", 2.0, {3: 1.0, 5: 3.0})
    assert accuracy == Measure("accuracy", "own", 0.5, {3: 0.25, 5: 0.75}, {"a": 0.5})
    names = [entry["name"] for entry in type_metrics("small", [accuracy])]
    assert names == [
        "accuracy/own",
        "accuracy/own_client",
        "accuracy/own_client",
        "accuracy/own_worst_client",
        "accuracy/own_client_spread",
        "accuracy/own_label",
    ]


def test_the_fleet_has_the_mean_over_the_types_that_were_measured() -> None:
    of_type = {"a": [Measure("loss", "eval", 1.0), ACCURACY], "b": [Measure("loss", "eval", 3.0)]}
    assert list(fleet_metrics(of_type)) == [
        {"name": "loss/eval", "value": 2.0, "unit": "nats/token"},
        {"name": "perplexity/eval", "value": math.exp(2.0), "unit": "1"},
        {"name": "accuracy/personal", "value": 0.5, "unit": "share"},
    ]


def test_a_type_without_clients_among_the_held_out_rows_has_no_worst_one() -> None:
    assert [entry["name"] for entry in type_metrics("a", [Measure("accuracy", "eval", 1.0)])] == ["accuracy/eval"]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_losses_that_are_no_numbers_give_a_spread_that_is_none(bad) -> None:
    assert math.isnan(spread([1.0, bad]))
    assert spread([2.0]) == 0.0
    assert perplexity(1e9) == math.exp(700.0)
