"""metrics.jsonl becomes curves; what is damaged, not finite or too much is left out and told."""

from __future__ import annotations

import json

import pytest

from heterotune.report import metric_record
from heterotune.report.metric_record import read_metrics


@pytest.fixture
def read(tmp_path):
    def read_lines(*lines: str | dict) -> metric_record.Metrics:
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
        return read_metrics(path)

    return read_lines


def line(**facts) -> dict:
    return {"round": 1, "name": "loss/eval", "value": 2.0, "unit": "nats/token", **facts}


def test_curves_are_told_apart_by_all_other_keys(read) -> None:
    metrics = read(line(model_type="a"), line(model_type="b", value=3.0), line(name="n"), line(name="n", round=4))
    assert {name: curve.points() for name, curve in metrics.by("loss/eval", "model_type").items()} == {
        "a": [(1, 2.0)],
        "b": [(1, 3.0)],
    }
    assert metrics.one("n").points() == [(1, 2.0), (4, 2.0)] and metrics.newest_round == 4
    assert metrics.units == {"loss/eval": "nats/token", "n": "nats/token"}
    assert metrics.one("loss/eval") is None and metrics.by("n", "model_type") == {}


def test_pairs_in_groups_are_found_by_both(read) -> None:
    metrics = read(line(name="cmga/cosine", group="head", pair="a:b"), line(name="cmga/cosine", group="w"))
    assert [fields for fields, _ in metrics.keyed("cmga/cosine", "group", "pair")] == [("head", "a:b")]


@pytest.mark.parametrize(
    "damaged",
    [
        '{"round": 1, "na',
        "[1]",
        '{"round": 1, "name": "loss/eval"}',
        '{"round": "1", "name": "loss/eval", "value": 1}',
        '{"round": true, "name": "loss/eval", "value": 1}',
        '{"round": -1, "name": "loss/eval", "value": 1}',
        '{"round": 1, "name": 7, "value": 1}',
        '{"round": 1, "name": "loss/eval", "value": "low"}',
        '{"round": 1, "name": "loss/eval", "value": true}',
        '{"round": 1, "name": "loss/eval", "value": 1e999}',
        '{"round": 1, "name": "loss/eval", "value": NaN}',
        '{"round": 1, "name": "loss/eval", "value": ' + "9" * 400 + "}",
        "[" * 100_000,
        "\x00",
    ],
)
def test_a_damaged_line_is_left_out_and_told(read, damaged) -> None:
    metrics = read(line(), damaged, line(round=2))
    assert metrics.one("loss/eval").points() == [(1, 2.0), (2, 2.0)]
    assert metrics.missing == ["metrics.jsonl: 1 damaged or cut line(s) left out: 2."]


def test_many_damaged_lines_are_counted(read) -> None:
    assert read(*["x"] * 9).missing == ["metrics.jsonl: 9 damaged or cut line(s) left out: 1, 2, 3, 4, 5 and 4 more."]


def test_values_that_were_not_finite_are_told(read) -> None:
    metrics = read(line(), line(round=2, value=None))
    assert metrics.missing == ["loss/eval: 1 value(s) were not finite (NaN or infinite) and are not drawn."]


def test_a_name_with_very_many_curves_is_cut(read, monkeypatch) -> None:
    monkeypatch.setattr(metric_record, "MAX_CURVES", 2)
    metrics = read(*(line(name="loss/client", client=client) for client in range(5)))
    assert len(metrics.curves["loss/client"]) == 2
    assert metrics.missing == ["loss/client: more than 2 curves; the others were left out."]
