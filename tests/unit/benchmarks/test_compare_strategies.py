"""The grid of methods and seeds: its arithmetic on outcomes made up here, what it runs again, what it submits."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from heterotune.errors import LaunchError

ROOT = Path(__file__).parents[3]
RUN = {
    "name": "grid",
    "rounds": 1,
    "fleet": [{"name": "a", "model": "embedded:small", "clients": 2}],
    "data": {"source": "embedded:stdlib"},
    "compare_with": ["fedavg_lora"],
}


@pytest.fixture(scope="module")
def grid() -> Iterator[ModuleType]:
    """The script; it imports others by bare names, so they are forgotten afterwards."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "tools" / "experiments")]
    script = importlib.import_module("compare_strategies")
    script.grid_outcomes = sys.modules["grid_outcomes"]
    yield script
    sys.path[:] = before
    for name in {"compare_strategies", "grid_cells", "grid_outcomes", "tables", "report"} - known:
        sys.modules.pop(name, None)


@pytest.fixture
def run_yaml(tmp_path) -> Path:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path / "run.yaml"


@pytest.fixture
def configs(grid, run_yaml, tmp_path):
    """A grid of two methods and two seeds, with its runs."""
    cells = grid.grid(tmp_path / "out", ["fedavg_lora", "flora"], [1, 2])
    return {cell: grid.config_of(run_yaml, [], cell) for cell in cells}


@pytest.fixture
def ranks(grid, monkeypatch):
    """Stands for the ranks: notes what it is asked to run, ends as it is told, writes a summary if that is well."""
    asked = SimpleNamespace(runs=[], exit_codes=[])

    def run_local(folder, num_ranks, *, threads_per_rank, resume):
        asked.runs.append((folder.path.parent.name, folder.path.name, num_ranks, resume))
        code = asked.exit_codes.pop(0) if asked.exit_codes else 0
        if code == 0:
            folder.write_summary({})
        return code

    monkeypatch.setattr(grid, "run_local", run_local)
    return asked


def outcome(grid, *losses: float, accuracy: tuple[float, ...] = (), own=(None, None)):
    names = "ab"
    of_types = dict(zip(names, losses, strict=False)), dict(zip(names, accuracy, strict=False))
    return grid.grid_outcomes.Outcome(*of_types, *own, up_bytes=10.0, down_bytes=20.0, seconds_per_round=0.5)


def test_seeds_come_one_after_the_other_so_that_whole_comparisons_are_done_first(configs):
    assert [(cell.seed, cell.method) for cell in configs] == [
        (1, "fedavg_lora"),
        (1, "flora"),
        (2, "fedavg_lora"),
        (2, "flora"),
    ]
    for cell, config in configs.items():
        assert (config.strategy, config.seed, config.compare_with) == (cell.method, cell.seed, ())


def test_a_gain_is_points_of_accuracy_if_both_have_one_else_loss_saved(grid):
    base, better = outcome(grid, 2.0, 4.0), outcome(grid, 1.0, 4.0)
    assert grid.grid_outcomes.gain(better, base) == 0.5
    base, better = outcome(grid, 2.0, accuracy=(0.5, 0.5)), outcome(grid, 3.0, accuracy=(0.5, 0.75))
    assert grid.grid_outcomes.gain(better, base) == 12.5
    assert grid.grid_outcomes.gain(outcome(grid, 3.0), base) == -1.0


def test_a_gain_is_measured_on_the_same_rows_where_there_are_such(grid):
    common, personal = outcome(grid, 2.0, own=(2.5, None)), outcome(grid, 1.0, own=(2.0, None))
    assert grid.grid_outcomes.gain(personal, common) == 0.5
    common, personal = outcome(grid, 2.0, accuracy=(0.9,), own=(2.5, 0.25)), outcome(grid, 1.0, own=(2.0, 0.5))
    assert grid.grid_outcomes.gain(personal, common) == 25.0


def test_the_table_pairs_seeds_and_says_how_far_they_spread(grid, configs):
    losses = {("fedavg_lora", 1): (1.0, 3.0), ("fedavg_lora", 2): (2.0, 4.0), ("flora", 1): (1.0, 1.0)}
    found = {
        (cell.method, cell.seed): outcome(grid, *losses[cell.method, cell.seed])
        for cell in configs
        if (cell.method, cell.seed) in losses  # flora's seed 2 is not done yet
    }
    base, flora = grid.table(found, "fedavg_lora")
    assert (base["method"], base["seeds"], base["loss"], base["loss_std"]) == ("fedavg_lora", 2, 2.5, 0.70711)
    assert (base["worst_type_loss"], base["gain_over_fedavg_lora"], base["accuracy"]) == (3.5, 0.0, "")
    assert (base["own_rows_loss"], flora["own_rows_loss"]) == ("", "")
    assert (flora["loss"], flora["loss_std"], flora["gain_over_fedavg_lora"]) == (1.0, "", 1.0)  # over seed 1's 2.0
    assert (flora["up_bytes"], flora["down_bytes"], flora["seconds_per_round"]) == (10.0, 20.0, 0.5)
    (alone,) = grid.table({("flora", 1): found["flora", 1]}, "fedavg_lora")
    assert alone["gain_over_fedavg_lora"] == ""
    (unknown,) = grid.table({("flora", seed): outcome(grid) for seed in (1, 2)}, "flora")
    assert (unknown["loss"], unknown["worst_type_loss"], unknown["gain_over_flora"]) == ("", "", "")


@pytest.mark.parametrize(("kind", "wanted"), [("eval", {"a": 2.0}), ("personal", {"a": 1.0}), ("unmoved", {})])
def test_the_last_values_of_a_run_count_and_a_personal_methods_own_models(grid, tmp_path, kind, wanted):
    cell = grid.Cell("local_only", 1, tmp_path / "seed-1")
    cell.folder.mkdir()
    metrics = [
        {"round": number, "name": "loss/eval", "model_type": "a", "value": 3.0 - number * (kind != "unmoved")}
        for number in (0, 1)
    ] + [{"round": 1, "name": "accuracy/eval", "value": 0.9}]
    if kind == "personal":
        metrics.append({"round": 1, "name": "loss/personal", "model_type": "a", "value": 1.0})
    name = "loss/personal_client" if kind == "personal" else "loss/client"
    metrics += [
        {"round": 1, "name": name, "model_type": "a", "client": client, "value": value}
        for client, value in ((0, 1.0), (1, 4.0))
    ]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    of_type = {"up_bytes_per_client_round": 7, "down_bytes_per_client_round": 9}
    summary = {"strategy": "local_only", "model_types": {"a": of_type}, "seconds_per_round": 1.5, "compare": {}}
    (cell.folder / "summary.json").write_text(json.dumps(summary))
    found = grid.read_outcome(cell.folder)
    assert found == grid.grid_outcomes.Outcome(wanted, {}, 2.5, None, 7, 9, 1.5)


def test_what_is_done_stays_and_what_was_begun_goes_on(grid, configs, ranks):
    ranks.exit_codes = [0, 75]
    with pytest.raises(LaunchError, match=r"flora/seed-1: the run ended with exit code 75\."):
        grid.run_missing(configs, 2)
    grid.run_missing(configs, 2)
    grid.run_missing(configs, 2)
    assert ranks.runs == [
        ("fedavg_lora", "seed-1", 2, False),
        ("flora", "seed-1", 2, False),
        ("flora", "seed-1", 2, True),
        ("fedavg_lora", "seed-2", 2, False),
        ("flora", "seed-2", 2, False),
    ]


def test_ctrl_c_ends_the_grid_and_says_how_to_go_on(grid, run_yaml, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "run_local", interrupted)
    assert grid.main([str(run_yaml), "--strategies", "flora", "--output", str(tmp_path / "out")]) == 130
    assert "Interrupted; the same command goes on from here." in capsys.readouterr().err


def test_a_cell_that_was_interrupted_before_it_began_begins(grid, configs, ranks):
    next(iter(configs)).folder.mkdir(parents=True)
    grid.run_missing(configs, 1)
    assert [resume for *_, resume in ranks.runs] == [False] * 4


def test_runs_of_other_settings_are_not_mixed(grid, configs, ranks, run_yaml):
    grid.run_missing(configs, 1)
    grid.check_asked(configs)
    others = {cell: grid.config_of(run_yaml, ["local.steps=3"], cell) for cell in configs}
    with pytest.raises(LaunchError, match=r"seed-2: begun with other settings\. Restore those, or name another"):
        grid.check_asked(others)


def test_a_method_is_one_array_and_a_seed_that_comes_later_a_job(grid, run_yaml, tmp_path, monkeypatch):
    commands = []

    def submit(command):
        commands.append(command[command.index("submit") + 2 :])
        (tmp_path / "out" / "flora").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=submit))
    wanted = [str(run_yaml), "--strategies", "flora", "--output", str(tmp_path / "out"), "--slurm", "--nodes", "2"]
    assert grid.main([*wanted, "--seeds", "1", "2"]) == 0
    assert grid.main([*wanted, "--seeds", "1", "2", "3"]) == 0
    settings, place = ["--set=strategy=flora", "--set=compare_with=[]"], tmp_path / "out" / "flora"
    assert commands == [
        ["--run-dir", str(place), "--array", "1,2", *settings, "--nodes", "2"],
        ["--run-dir", str(place / "seed-3"), *settings, "--set=seed=3", "--nodes", "2"],
    ]


def test_a_job_that_is_refused_ends_the_command_and_is_tried_again(grid, run_yaml, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, "subprocess", SimpleNamespace(run=lambda command: SimpleNamespace(returncode=2)))
    wanted = [str(run_yaml), "--strategies", "flora", "--seeds", "1", "--output", str(tmp_path / "out"), "--slurm"]
    for _ in range(2):
        assert grid.main(wanted) == LaunchError.exit_code
        assert "flora: heterotune submit refused the job." in capsys.readouterr().err


def test_the_tables_are_written_with_where_they_come_from(grid, tmp_path):
    rows = [{"method": "flora", "loss": 1.5}]
    grid.write_tables(tmp_path, rows)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert any(line.startswith("# commit") for line in lines)
    assert list(csv.DictReader(line for line in lines if line[0] != "#")) == [{"method": "flora", "loss": "1.5"}]
    assert (tmp_path / "table.md").read_text() == "| method | loss |\n|---|---|\n| flora | 1.5 |\n"
