"""Runs that differ only in their seed are one group; its figures are mean and standard deviation by hand."""

from __future__ import annotations

import csv
import io
import math

import pytest

from heterotune.errors import LaunchError
from heterotune.report.comparison import compare, run_folders
from heterotune.report.comparison_page import as_record, comparison_page, result_rows, write_csv
from heterotune.report.page import draw, write_page
from heterotune.report.plots.group_curves import bytes_group_plots, learning_group_plots, mean_and_band

MIB = 2**20


@pytest.fixture
def three_seeds(make_run):
    """Final losses of a: 2.7, 2.8, 2.9; of b one more."""
    return [make_run(f"array/seed-{seed}", seed=seed, shift=(seed - 2) / 10) for seed in (1, 2, 3)]


def test_seeds_are_one_group_and_strategies_are_two(three_seeds) -> None:
    comparison = compare(three_seeds)
    assert [group.label for group in comparison.groups] == ["heterotune", "fedavg_lora"]
    assert [group.seeds() for group in comparison.groups] == ["1, 2, 3"] * 2
    loss = comparison.groups[0].spread("loss", "a")
    assert (loss.num_runs, loss.mean, loss.std) == (3, pytest.approx(2.8), pytest.approx(0.1))
    assert comparison.groups[0].spread("loss", "all model types").mean == pytest.approx(3.3)
    assert comparison.groups[0].spread("up_bytes", "b").mean == 4 * MIB
    assert comparison.groups[0].spread("down_bytes", "b") is None
    assert comparison.groups[0].spread("seconds_per_round", "a").mean == 2.0
    assert comparison.groups[0].spread("peak_bytes", "a").mean == 310 * MIB
    assert comparison.groups[0].spread("accuracy", "a").std == 0.0


def test_the_folder_of_an_array_stands_for_its_runs_in_order(make_run, tmp_path) -> None:
    for seed in (10, 9, 1):
        make_run(f"array/seed-{seed}", seed=seed)
    (tmp_path / "array" / "job.sbatch").write_text("")
    assert [path.name for path in run_folders(tmp_path / "array")] == ["seed-1", "seed-9", "seed-10"]
    assert run_folders(tmp_path / "array" / "seed-9") == [tmp_path / "array" / "seed-9"]
    assert len(compare([tmp_path / "array", tmp_path / "array" / "seed-1"]).groups[0].entries) == 3


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_what_holds_no_run_is_refused(tmp_path, name) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LaunchError, match=f"{name}: neither a run folder nor a folder of run folders"):
        compare([tmp_path / name])


def test_another_setting_makes_another_group_and_is_listed(make_run) -> None:
    runs = [make_run(f"r{n}", local={"learning_rate": rate}) for n, rate in enumerate((0.1, 0.1, 0.2))]
    comparison = compare(runs)
    assert [group.label for group in comparison.groups][:1] == ["heterotune, learning_rate 0.1"]
    assert [len(group.entries) for group in comparison.groups] == [2, 2, 1, 1]
    assert ("local.learning_rate", ["0.1", "0.1", "0.2", "0.2"]) in comparison.differences()


def test_options_of_other_strategies_do_not_tell_groups_apart(make_run) -> None:
    comparison = compare([make_run("r1"), make_run("r2", seed=2, heterotune={"adapter_rank": 2})])
    sizes = {group.label: len(group.entries) for group in comparison.groups}
    assert sizes == {"heterotune, adapter_rank 8": 1, "fedavg_lora": 2, "heterotune, adapter_rank 2": 1}


def test_chunk_sizes_that_each_run_measured_do_not_tell_groups_apart(make_run) -> None:
    sizes = [{"clients": "auto", "of_type": {"a": size}} for size in (1, 2)]
    assert len(compare([make_run(f"r{n}", seed=n, chunk=chunk) for n, chunk in enumerate(sizes)]).groups) == 2
    fixed = [{"clients": 4, "of_type": {"a": size}} for size in (1, 2)]
    assert len(compare([make_run(f"f{n}", seed=n, chunk=chunk) for n, chunk in enumerate(fixed)]).groups) == 4


def test_an_unfinished_run_does_not_count_beside_finished_ones(three_seeds) -> None:
    lines = (three_seeds[2] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (three_seeds[2] / "metrics.jsonl").write_text("".join(line for line in lines if '"round": 2' not in line))
    (three_seeds[2] / "summary.json").unlink()
    comparison = compare(three_seeds)
    assert comparison.groups[0].seeds() == "1, 2"
    assert "heterotune: seed-3 has come to round 1 of 2; it does not count." in comparison.missing
    alone = compare(three_seeds[2:])
    assert alone.groups[0].seeds() == "3"
    assert "heterotune: seed-3 has come to round 1 of 2; it counts all the same." in alone.missing


def test_the_same_seed_twice_is_told(make_run) -> None:
    comparison = compare([make_run("r1"), make_run("r2")])
    assert "heterotune: 2 runs have the seed 1; the spread over seeds is too small." in comparison.missing


def test_a_config_of_another_version_is_compared_as_it_stands(make_run) -> None:
    runs = [make_run("r1"), make_run("r2", seed=2)]
    for path in runs:
        with (path / "config.yaml").open("a") as file:
            file.write("from_the_future: 3\n")
    assert len(compare(runs).groups) == 2


def test_bands_are_one_standard_deviation_where_all_runs_have_a_value() -> None:
    means, band = mean_and_band([[(0, 1.0), (1, 2.0)], [(0, 3.0), (2, 9.0)]])
    assert means == [(0, 2.0)] and band == [(0, 2.0 - math.sqrt(2), 2.0 + math.sqrt(2))]
    assert mean_and_band([[(0, 1.0)]]) == ([(0, 1.0)], [])


def test_table_csv_json_and_plots_say_the_same(three_seeds) -> None:
    comparison = compare(three_seeds)
    heads, rows = result_rows(comparison)
    assert heads == ["model type", "group", "runs", "loss", "accuracy", "up", "down", "round", "peak"]
    assert ["a", "heterotune", "3", "2.8000 ± 0.1000"] in [row[:4] for row in rows]
    stream = io.StringIO()
    write_csv(comparison, stream)
    (line,) = [
        row
        for row in csv.DictReader(io.StringIO(stream.getvalue()))
        if (row["model_type"], row["group"]) == ("a", "heterotune")
    ]
    assert (line["seeds"], float(line["loss_mean"]), line["exact_match_mean"]) == ("1, 2, 3", pytest.approx(2.8), "")
    record = as_record(comparison)["groups"][0]
    assert record["model_types"]["a"]["loss"] == {"mean": pytest.approx(2.8), "std": pytest.approx(0.1), "num_runs": 3}
    assert [run["seed"] for run in record["runs"]] == [1, 2, 3]
    final, curves, _ = learning_group_plots(comparison)
    assert [row[2] for row in final.rows[:3]] == pytest.approx([2.7, 2.8, 2.9])
    assert curves.rows[2] == ("heterotune", "a", 2, *(pytest.approx(each) for each in (2.8, 2.7, 2.9)))
    (against,) = bytes_group_plots(comparison)
    assert against.rows[2] == ("heterotune", "a", 6.0, pytest.approx(2.8))


def test_the_page_has_groups_runs_and_what_differs(make_bare_run) -> None:
    runs = [make_bare_run("r1"), make_bare_run("r2", seed=2, local={"learning_rate": 0.2})]
    page = comparison_page(compare(runs))
    text = write_page(page, draw(page))
    assert "local.learning_rate" in text and "2 runs in 2 groups" in text and text.count("<svg") == 2
