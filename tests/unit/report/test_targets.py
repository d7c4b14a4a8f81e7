"""Learning against virtual time, energy and bytes, and what it took to reach a target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heterotune.errors import ConfigError
from heterotune.report.comparison import compare
from heterotune.report.comparison_page import as_record, comparison_page, result_rows, terminal_target_table
from heterotune.report.costs import BYTES, JOULES, SECONDS, by_cost, spent
from heterotune.report.metric_record import read_metrics
from heterotune.report.plots.cost_curves import cost_plots
from heterotune.report.plots.learning import ALL_TYPES
from heterotune.report.run_page import run_page
from heterotune.report.run_record import StrategyRecord, read_run
from heterotune.report.targets import Target, default_targets, parse_targets, reached, target_table

MIB = 2**20


def add_metrics(folder: Path, metrics: dict[str, list[float]]) -> None:
    """Append a value a round, from round 0 for losses and from round 1 for what is summed up."""
    with (folder / "metrics.jsonl").open("a") as file:
        for name, values in metrics.items():
            for number, value in enumerate(values, start=0 if name == "loss/eval" else 1):
                file.write(json.dumps({"round": number, "name": name, "value": value, "unit": "?"}) + "\n")


@pytest.fixture
def timed_run(make_run) -> Callable[..., Path]:
    """A run with a clock: heterotune needs 100 s and 2 kJ a round, fedavg_lora half of the time; losses fall alike."""

    def make(folder: str = "run", factor: float = 1.0, **config) -> Path:
        path = make_run(folder, **config)
        seconds = [100.0 * factor, 200.0 * factor]
        add_metrics(path, {"loss/eval": [3.0, 2.9, 2.7], "clock/seconds": seconds, "clock/energy": [2e3, 4e3]})
        if config.get("compare_with") != []:
            other = {"loss/eval": [3.0, 2.8, 2.75], "clock/seconds": [50.0, 100.0], "clock/energy": [0.0, 0.0]}
            add_metrics(path / "compare" / "fedavg_lora", other)
        return path

    return make


def test_what_was_spent_by_a_round(timed_run) -> None:
    heterotune, fedavg_lora = read_run(timed_run()).strategies
    assert spent(heterotune, SECONDS) == [(1, 100.0), (2, 200.0)]
    assert spent(heterotune, BYTES) == [(1, 7 * MIB), (2, 14 * MIB)]
    assert spent(fedavg_lora, JOULES) == []  # devices whose watts nobody gave
    assert by_cost(heterotune, JOULES, [(0, 3.0), (2, 2.7)]) == [(0.0, 3.0), (4e3, 2.7)]


def test_targets_are_read_and_mistakes_are_told() -> None:
    assert parse_targets(["loss=2.5", "accuracy=0.6"]) == [Target("loss", 2.5), Target("accuracy", 0.6)]
    assert [str(target) for target in parse_targets(["loss=2.5", "exact_match=0.25"])] == [
        "loss ≤ 2.5",
        "exact match ≥ 25 %",
    ]
    with pytest.raises(ConfigError, match="--target los=2 is no target. Write one of loss, accuracy") as caught:
        parse_targets(["los=2", "loss=low", "accuracy=nan"])
    assert len(caught.value.problems) == 3


def test_targets_that_nobody_asked_for_are_reached_by_all(timed_run) -> None:
    runs = {each.name: [each] for each in read_run(timed_run()).strategies}
    assert [target.value for target in default_targets(runs)] == [2.875, 2.775, 2.75]


def test_time_to_target_with_the_ratio(timed_run) -> None:
    runs = {each.name: [each] for each in read_run(timed_run()).strategies}
    table = target_table(runs, [Target("loss", 2.85), Target("loss", 2.72), Target("loss", 3.5)], ALL_TYPES)
    assert table.columns == ("target", "strategy", "runs", "rounds", "virtual time", "energy", "bytes")
    assert [list(row) for row in table.rows] == [
        ["loss ≤ 2.85", "heterotune", "1 of 1", "2.0", "3 min 20 s", "4 kJ", "14.0 MiB"],
        ["loss ≤ 2.85", "fedavg_lora", "1 of 1", "1.0", "50 s (× 0.25)", "-", "7.00 MiB (× 0.50)"],
        ["loss ≤ 2.72", "heterotune", "1 of 1", "2.0", "3 min 20 s", "4 kJ", "14.0 MiB"],
        ["loss ≤ 2.72", "fedavg_lora", "0 of 1", "-", "-", "-", "-"],
        ["loss ≤ 3.5", "heterotune", "1 of 1", "0.0", "0 s", "0 J", "0 B"],
        ["loss ≤ 3.5", "fedavg_lora", "1 of 1", "0.0", "0 s", "-", "0 B"],
    ]
    assert target_table(runs, [Target("loss", 0.1)], ALL_TYPES) is None


@pytest.mark.parametrize(("every", "reaching"), [(20, 20), (1, 119)])  # 250 evaluations, and 5000
def test_a_long_run_is_told_as_exactly_as_a_short_one(tmp_path, every, reaching) -> None:
    losses = {n: 2.0 if n == reaching else 3.0 - n / 10_000 for n in range(0, 5001, every)}
    lines = [{"name": "loss/eval", "round": n, "value": loss} for n, loss in losses.items()]
    for name, each_round in (("clock/seconds", 100.0), ("clock/energy", 7.0)):
        lines += [{"name": name, "round": n, "value": each_round * n} for n in range(1, 5001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = StrategyRecord("heterotune", tmp_path, read_metrics(tmp_path / "metrics.jsonl"))
    found = reached([run], Target("loss", 2.0), ALL_TYPES)
    assert (found.rounds, found.mean(SECONDS), found.mean(JOULES)) == ([reaching], 100.0 * reaching, 7.0 * reaching)
    assert default_targets({"a": [run]})[-1] == Target("loss", 2.0)


def test_curves_over_time_energy_and_bytes(timed_run) -> None:
    runs = {each.name: [each] for each in read_run(timed_run()).strategies}
    plots = {plot.name: plot for plot in cost_plots(runs, ["a", "b"])}
    assert "learning-curves-over-virtual-time" in plots and "accuracy-over-bytes" in plots
    rows = plots["learning-curves-over-virtual-time"].rows
    assert ("heterotune", ALL_TYPES, 200.0, 2.7) in rows and ("fedavg_lora", "a", 100.0, 2.8) in rows
    assert {row[0] for row in plots["learning-curves-over-energy"].rows} == {"heterotune"}
    assert "2.700 after 3 min 20 s" in plots["learning-curves-over-virtual-time"].told


def test_a_page_has_them_only_where_a_clock_ran(timed_run, make_run) -> None:
    without, with_clock = run_page(read_run(make_run("plain"))), run_page(read_run(timed_run("timed")))
    assert "spent" not in {section.name for section in without.sections}
    (section,) = [section for section in with_clock.sections if section.name == "spent"]
    assert section.cards == [("Virtual time", "3 min 20 s", "fedavg_lora 1 min 40 s"), ("Energy", "4 kJ", "")]
    assert [table.is_folded for table in section.tables] == [False, True]  # b is far from these losses
    assert len(section.plots) == 6
    asked = run_page(read_run(make_run("asked")), [Target("loss", 2.95)])
    (section,) = [section for section in asked.sections if section.name == "spent"]
    assert section.tables[0].columns[-1] == "bytes" and not section.plots


def test_a_comparison_has_means_over_seeds(timed_run, make_run) -> None:
    runs = [timed_run(f"r{seed}", factor=seed, seed=seed, compare_with=[]) for seed in (1, 2)]
    plain = make_run("other", seed=1, compare_with=[], local={"learning_rate": 0.2})
    comparison = compare([*runs, plain])
    heads, rows = result_rows(comparison)
    assert heads[-2:] == ["virtual time", "energy"]
    assert rows[0][-2:] == ["5.0 ± 2.4 min", "4.0 ± 0 kJ"] and rows[1][-2:] == ["-", "-"]
    record = as_record(comparison, [Target("loss", 2.9)])["targets"][0]
    assert (record["measure"], record["model_type"]) == ("loss", ALL_TYPES)
    assert record["groups"][0] == {
        **{"label": comparison.groups[0].label, "num_runs": 2, "num_reached": 2, "rounds": 1.0},
        **{"virtual_seconds": 150.0, "energy_joules": 2e3, "bytes": 7 * MIB},
    }
    assert record["groups"][1]["num_reached"] == 0 and record["groups"][1]["virtual_seconds"] is None
    assert terminal_target_table(comparison, []).row_count == 6
    assert "spent" in {section.name for section in comparison_page(comparison).sections}


def test_runs_without_a_clock_are_compared_as_before(make_run) -> None:
    comparison = compare([make_run()])
    assert "targets" not in as_record(comparison) and terminal_target_table(comparison, []) is None
    assert "spent" not in {section.name for section in comparison_page(comparison).sections}
    assert result_rows(comparison)[0][-1] == "peak"
