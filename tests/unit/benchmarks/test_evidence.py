"""The evidence tables: their cells and rows, paired statistics on made-up outcomes, and one small run of each kind."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from scipy import stats
from tokenizers import Tokenizer

from heterotune.adapters.tables import adapter_layout
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.load import parse_run
from heterotune.errors import LaunchError
from heterotune.fleet.model_types import read_model_types
from heterotune.preflight import check

ROOT = Path(__file__).parents[3]
EMBEDDED = ROOT / "engine" / "heterotune" / "backbone" / "embedded"
MODULES = (
    "evidence",
    "evidence_arms",
    "evidence_page",
    "evidence_plot",
    "evidence_rows",
    "evidence_tasks",
    "evidence_tuning",
    "forked_runs",
)
SHARED = ("grid_cells", "paired_differences", "tables", "report")
DOMAINS = ("banking", "credit_cards", "kitchen_and_dining", "home", "auto_and_commute", "travel", "utility", "work",
           "small_talk", "meta")  # fmt: skip
RATES = {"lora": 0.003, "head": 3.0}


@pytest.fixture(scope="module")
def tool() -> Iterator[SimpleNamespace]:
    """The scripts; they import one another by bare names, so they are forgotten afterwards."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "tools" / "experiments")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in (*MODULES, "paired_differences")})
    sys.path[:] = before
    for name in {*MODULES, *SHARED} - known:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    """The embedded models under the family's names, each with the tokenizer."""
    folder = tmp_path_factory.mktemp("family")
    for name, model in {"s": "small", "m": "small", "l": "large", "l-4": "large-3q", "l-3": "large-2q"}.items():
        (folder / name).mkdir()
        for file in (*(EMBEDDED / model).iterdir(), EMBEDDED / "tokenizer.json", EMBEDDED / "tokenizer_config.json"):
            (folder / name / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two sets of intents in the layout of the real ones."""
    folder = tmp_path_factory.mktemp("data") / "intent"
    for name, labels in {"CLINC150": DOMAINS, "BANKING77": ("pay_in", "pay_out")}.items():
        for part, count in {"train": 600, "valid": 40, "test": 60}.items():
            (folder / name / part).mkdir(parents=True)
            rows = [(f"{part} query {n} on {labels[n % len(labels)]}", labels[n % len(labels)]) for n in range(count)]
            for file, column in {"seq.in": 0, "label": 1}.items():
                (folder / name / part / file).write_text("".join(f"{row[column]}\n" for row in rows))
    (folder / "CLINC150" / "domains.json").write_text(json.dumps({domain: [domain] for domain in DOMAINS}))
    return folder.parent


@pytest.fixture(autouse=True)
def words(tool, family, monkeypatch) -> None:
    """Words that the embedded tokenizer has: it was made for source code."""
    tokenizer = Tokenizer.from_file(str(family / "l" / "tokenizer.json"))
    some = tool.evidence_tasks._common_words(tokenizer, set())
    monkeypatch.setattr(
        tool.evidence_tasks,
        "CLINC_WORDS",
        tool.evidence_tasks.CLINC_WORDS | {domain: (some[n],) for n, domain in enumerate(DOMAINS)},
    )
    task = tool.evidence_tasks.TASKS["clinc150"]
    changed = {
        "clinc150": tool.evidence_tasks.Task(task.read, tool.evidence_tasks.CLINC_WORDS, task.template, "banking77")
    }
    monkeypatch.setattr(tool.evidence_tasks, "TASKS", tool.evidence_tasks.TASKS | changed)


def found(tool, mean: float, **changes):
    of_type = changes.pop("of_type", {"l": mean, "s": mean})
    known = {"of_client": [mean - 5, mean], "missing": None, "loss": 1.0, "up_bytes": 8.0}
    return tool.evidence_rows.Found(of_type=of_type, **{**known, **changes})


def test_cells_come_seed_by_seed_and_may_be_some_arms_only(tool, tmp_path) -> None:
    cells = tool.evidence_arms.cells_of("scarce", [1, 2], tmp_path)
    arms = tool.evidence_arms.METHODS
    assert [(cell.seed, cell.arm) for cell in cells] == [(seed, arm) for seed in (1, 2) for arm in arms]
    assert len({cell.folder for cell in cells}) == len({cell.asked for cell in cells}) == len(cells)
    some = tool.evidence_arms.cells_of("scarce", [1], tmp_path, arms=["flora"])
    assert [cell.name for cell in some] == ["clinc150-scarce-widths-flora"]
    assert not tool.evidence_arms.cells_of("scarce", [1], tmp_path, settings=["plenty"])
    for table in tool.evidence_arms.TABLES:
        for cell in tool.evidence_arms.cells_of(table, [1], tmp_path):
            assert cell.arm in tool.evidence_arms.ALL_ARMS and cell.num_rows > 0


def test_speeches_of_the_ten_who_speak_most_are_told_apart_and_the_others_are_public(tool, tmp_path) -> None:
    folder = tmp_path / "tinyshakespeare"
    folder.mkdir()
    speeches = [(f"SPEAKER {n}", f"speech {n}\nof {turn}") for n in range(12) for turn in range(40 - n)]
    (folder / "input.txt").write_text("\n\n".join(f"{speaker}:\n{said}" for speaker, said in speeches) + "\n")
    rows = {
        part: tool.evidence_tasks._read_shakespeare(tmp_path, part) for part in ("train", "valid", "test", "public")
    }
    assert {speaker for _, speaker in rows.pop("public")} == {"SPEAKER 10", "SPEAKER 11"}
    told = [row for part in rows.values() for row in part]
    assert sorted(told) == sorted((said.replace("\n", " "), speaker) for speaker, said in speeches[: -30 - 29])
    assert len(rows["train"]) > len(rows["test"]) > len(rows["valid"]) > 0


def test_texts_that_differ_only_where_they_are_cut_are_in_one_part(tool) -> None:
    longest = tool.evidence_tasks.LONGEST_TEXT
    rows = [(f"{start} {'x' * longest} {end}", "label") for start in range(30) for end in range(4)]
    parts = {part: tool.evidence_tasks._part_of(rows, part) for part in ("train", "valid", "test")}
    starts = [{text for text, _ in part} for part in parts.values()]
    assert sum(map(len, parts.values())) == len(rows) and all(starts) and len(set.union(*starts)) == 30
    assert sum(map(len, starts)) == 30


def test_paired_differences_have_students_interval(tool) -> None:
    mine, others = {1: 5.0, 2: 7.0, 3: 6.5, 9: 100.0}, {1: 4.0, 2: 4.5, 3: 5.0}
    mean, half = tool.paired_differences.paired(mine, others)
    interval = stats.ttest_rel([5.0, 7.0, 6.5], [4.0, 4.5, 5.0]).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))
    mean, half = tool.paired_differences.paired({1: 2.0}, others)
    assert mean == -2.0 and math.isnan(half)
    assert all(math.isnan(value) for value in tool.paired_differences.paired({}, others))


def test_rows_pair_arms_by_seed_and_name_the_type_that_gains_least(tool, tmp_path) -> None:
    Cell, twin = tool.evidence_arms.Cell, tool.evidence_arms.TWIN
    outcomes = {
        Cell("clinc150", "scarce", "widths", twin, 1, tmp_path): found(tool, 30.0),
        Cell("clinc150", "scarce", "widths", twin, 2, tmp_path): found(tool, 20.0),
        Cell("clinc150", "scarce", "widths", "heterotune", 1, tmp_path): found(tool, 0, of_type={"l": 40.0, "s": 28.0}),
        Cell("clinc150", "scarce", "widths", "heterotune", 2, tmp_path): found(tool, 0, of_type={"l": 30.0, "s": 20.0}),
    }
    base, mine = tool.evidence_rows.table_rows(outcomes)
    assert (base["arm"], base["seeds"], base["mean_accuracy"], base["worst_client_accuracy"]) == (twin, 2, 25.0, 20.0)
    assert (mine["mean_accuracy"], mine["worst_type_accuracy"], mine[f"gain_over_{twin}"]) == (29.5, 24.0, 4.5)
    assert mine["mean_accuracy_std"] == round(statistics.stdev([34.0, 25.0]), 2)
    assert (mine[f"least_gain_over_{twin}_type"], mine[f"least_gain_of_a_type_over_{twin}"]) == ("s", -1.0)
    assert (mine[f"pairs_with_{twin}"], mine["pairs_with_fedavg_lora"]) == (2, 0)
    assert (mine[f"worst_type_gain_over_{twin}"], mine[f"worst_client_gain_over_{twin}"]) == (-1.0, -25.0)
    assert mine[f"worst_type_gain_over_{twin}_ci95"] == round(12.706205 * 1.0, 2)  # of -2 and 0
    assert (mine["gain_over_fedavg_lora"], mine["withheld_labels_accuracy"]) == ("", "")


def test_the_picture_has_every_gain_that_is_known(tool, tmp_path) -> None:
    Cell = tool.evidence_arms.Cell
    outcomes = {
        Cell("clinc150", setting, "widths", arm, seed, tmp_path): found(tool, mean + seed)
        for setting, arm, mean in (
            ("scarce", "fedavg_lora", 20.0), ("scarce", "heterotune", 25.0), ("skew", "heterotune", 3.0)
        )
        for seed in (1, 2)
    }  # fmt: skip
    plot = tool.evidence_plot.gains_plot("scarce", tool.evidence_rows.table_rows(outcomes))
    assert plot.rows == [["clinc150", "scarce", "widths", "heterotune", 2, 5.0, 0.0]]
    alone = {cell: one for cell, one in outcomes.items() if cell.arm == "fedavg_lora" or cell.setting == "skew"}
    assert tool.evidence_plot.gains_plot("scarce", tool.evidence_rows.table_rows(alone)) is None
    svg = importlib.import_module("heterotune.report.plots.plot").render(plot).svg
    assert "heterotune" in svg and "clinc150, scarce, widths" in svg and "skew" not in svg


def test_a_gain_of_one_seed_is_a_point_without_an_interval(tool, tmp_path) -> None:
    Cell = tool.evidence_arms.Cell
    seeds = {"fedavg_lora": (1, 2), "flora": (1, 2), "heterotune": (2, 3)}
    outcomes = {
        Cell("clinc150", "scarce", "widths", arm, seed, tmp_path): found(tool, 20.0 + len(arm) * seed)
        for arm, mine in seeds.items()
        for seed in mine
    }
    plot = tool.evidence_plot.gains_plot("scarce", tool.evidence_rows.table_rows(outcomes))
    assert [(row[3], row[-1] == "") for row in plot.rows] == [("flora", False), ("heterotune", True)]
    figure = Figure()
    plot.draw(figure)
    (axes,) = figure.axes
    (bars,) = axes.collections
    assert [len(ends) for ends in bars.get_segments()] == [2, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["flora", "heterotune"]


def test_rows_for_other_numbers_of_test_rows_lie_elsewhere(tool, data, family, tmp_path) -> None:
    tokenizer = Tokenizer.from_file(str(family / "l" / "tokenizer.json"))
    few, more = (
        tool.evidence_tasks.prepare(
            "clinc150", data, tokenizer, tmp_path, seed=1, num_rows=20, num_test=count, part="test"
        )
        for count in (10, 30)
    )
    for task, count in ((few, 10), (more, 30)):
        assert len((task.folder / "test.jsonl").read_text().splitlines()) == task.num_test == count


def test_labels_that_a_type_never_saw_count_for_that_type_only(tool) -> None:
    of_label = {"s.0": {"a": 10.0, "b": 50.0}, "s.1": {"a": 20.0, "b": 60.0}, "l": {"a": 90.0, "b": 30.0}}
    assert tool.evidence_rows._missing({"s": ["a"], "l": ["b"]}, of_label) == 20.0
    assert tool.evidence_rows._missing({}, of_label) is None


def test_rows_are_balanced_and_a_type_never_holds_what_is_withheld(tool, data, family, tmp_path) -> None:
    cell = tool.evidence_arms.Cell("clinc150", "skew", "widths", "heterotune", 3, tmp_path)
    config = tool.evidence.configs_of([cell], data, family, RATES)[cell]
    rows = [json.loads(line) for line in (Path(config.data.root) / "train.jsonl").read_text().splitlines()]
    counts = [sum(row["label"] == label for row in rows) for label in config.data.fields.labels]
    assert len(rows) == 540 and max(counts) - min(counts) <= 1
    never = tool.evidence_arms.withheld(cell, config.data.fields.labels)
    assert {name: set(never[name]) & set(held) for name, held in config.data.partition.holds.items()} == {
        "s": set(), "m": set(), "l": set()
    }  # fmt: skip
    assert len({label for labels in never.values() for label in labels}) == 9
    assert all(label.startswith(" ") for label in config.data.fields.labels)


def test_other_methods_train_as_many_parameters_as_the_twin(tool, data, family, tmp_path) -> None:
    names = (tool.evidence_arms.TWIN, "heterotune", "fedavg_lora", "local_only", "flora", "fedproto")
    cells = [tool.evidence_arms.Cell("clinc150", "scarce", "siblings", name, 1, tmp_path) for name in names]
    sizes = []
    for config in tool.evidence.configs_of(cells, data, family, RATES).values():
        types = read_model_types(config.fleet)
        layouts = [adapter_layout(config.strategy, config, each, types) for each in types]
        sizes.append([sum(spec.num_elements for spec in each.tensors if spec.trains) for each in layouts])
    twin, ours, fedavg, alone, flora, fedproto = sizes
    assert ours == twin == pytest.approx(fedavg, rel=0.06) and flora == fedavg
    assert alone == [size for size in fedavg for _ in range(3)]
    assert fedproto == pytest.approx([size for size in twin for _ in range(3)], rel=0.1)
    config = tool.evidence.configs_of(cells[:1], data, family, RATES)[cells[0]]
    assert config.heterotune.head_basis == len(DOMAINS)  # as many as the run finds: a token for each label


def test_an_ablation_changes_one_thing(tool) -> None:
    """Without a head branch there is none that could learn from others."""
    arms = tool.evidence_arms
    default = HeterotuneOptions(**arms.DISTILLED).model_dump()
    for name, arm in {**arms.CHANGES, **arms.CHANGES_BETWEEN_SIBLINGS}.items():
        options = HeterotuneOptions(**arm.options).model_dump()
        changed = {key for key in default if options[key] != default[key]}
        if arm.public != arms.PUBLIC:
            changed.add("public")
        assert changed == {"head_rank", "distill_every"} if name == "no_head" else len(changed) == 1, name
        assert arm.strategy == "heterotune" and not arm.alone
    assert arms.CHANGES["no_head"].options["head_rank"] == arms.CHANGES["no_head"].options["distill_every"] == 0
    assert arms.CHANGES["public_other_task"].public == arms.PUBLIC_OTHER


def test_a_run_file_that_names_no_option_gets_those_that_were_measured(tool, data, family, tmp_path) -> None:
    where = ["--data", str(data), "--family", str(family), "--out", str(tmp_path)]
    rates = json.loads(tool.evidence._parse(["--table", "scarce", *where]).rates)
    cell = tool.evidence_arms.Cell("clinc150", "scarce", "widths", tool.evidence_arms.DEFAULT, 1, tmp_path)
    measured = tool.evidence.configs_of([cell], data, family, rates)[cell]
    minimal = {
        "name": "label-task",
        "rounds": 20,
        "fleet": [{"name": name, "model": str(family / name), "clients": 2} for name in ("s", "l")],
        "data": {
            "root": str(measured.data.root),
            "source": "train.jsonl",
            "public": {"path": "public.jsonl", "fields": {"text": "text"}},
            "fields": {"text": "text", "label": "label"},
            "partition": {"by": "iid"},
            "separator": "",  # the labels of these rows begin with a space
        },
    }
    assert check(parse_run(minimal)).config.heterotune == check(measured).config.heterotune


def test_every_arm_fits_together(tool, data, family, tmp_path) -> None:
    arms = tool.evidence_arms
    cells = {cell for table in arms.TABLES for cell in arms.cells_of(table, [1], tmp_path)}
    clinc = [cell for cell in cells if cell.task == "clinc150"]
    assert len(tool.evidence.configs_of(clinc, data, family, RATES)) == len(clinc)
    assert {cell.arm for cell in clinc} == arms.ALL_ARMS.keys()


def test_a_label_without_a_free_token_is_told(tool, family) -> None:
    tokenizer = Tokenizer.from_file(str(family / "l" / "tokenizer.json"))
    task = tool.evidence_tasks.Task(None, {"home": ("unwordlike",)}, "", "")
    with pytest.raises(ValueError, match=r"home: none of unwordlike is one token of the tokenizer and free"):
        tool.evidence_tasks.label_words(task, ["home"], tokenizer)


def test_rates_are_ranked_for_each_setting_and_arm_by_their_mean_over_fleets(tool, tmp_path) -> None:
    tuning = tool.evidence_tuning
    grid = tuning.GRID[:2]
    cells = {rates: tuning.cells_of(rates, tmp_path) for rates in grid}
    assert {cell.arm for cell in cells[grid[0]]} == {"fedavg_lora", "within_type", "heterotune"}
    outcome = {
        rates: {cell: 10.0 * (1 + n) + cell.seed - 101 + (cell.setting == "plenty") for cell in cells[rates]}
        for n, rates in enumerate(grid)
    }
    rows = tuning.rows_of(outcome)
    assert [(row["setting"], row["arm"], row["lora"]) for row in rows] == [
        (setting, arm, rates.lora) for setting in tuning.SETTINGS for arm in tuning.ARMS for rates in grid[::-1]
    ]
    assert [(row["mean_accuracy"], row["widths_accuracy"], row["runs"]) for row in rows[:2]] == [
        (20.5, 20.5, 4),
        (10.5, 10.5, 4),
    ]
    assert rows[-1]["mean_accuracy"] == 11.5
    some = tuning.cells_of(grid[0], tmp_path, arms=["fedavg_lora"], settings=["plenty"])
    assert {(cell.arm, cell.setting) for cell in some} == {("fedavg_lora", "plenty")} and len(some) == 4


def test_a_small_table_goes_on_where_it_was_and_is_written(tool, data, family, tmp_path, monkeypatch, capsys) -> None:
    """Runs are stood in for: each writes what a run leaves of itself, but for the last one at first."""
    arms, ran = tool.evidence_arms, []
    monkeypatch.setattr(arms, "TABLES", {"single": ((("clinc150",), ("scarce",), ("one",), (arms.TWIN, "flora")),)})

    def run_forked(tasks, num_jobs, on_end):
        for cell, _ in tasks:
            ran.append(cell.arm)
            code = int(cell.arm == "flora" and len(ran) == 2)
            if code == 0:
                leave_outcome(cell)
            on_end(cell, code, 0.5)

    monkeypatch.setattr(tool.evidence, "run_forked", run_forked)
    where = ["--data", str(data), "--family", str(family), "--out", str(tmp_path), "--results", str(tmp_path / "csv")]
    assert tool.evidence.main(["--table", "single", *where, "--seeds", "4"]) == 1
    assert "flora seed 4: exit code 1" in capsys.readouterr().out
    assert tool.evidence.main(["--table", "single", *where, "--seeds", "4"]) == 0
    assert ran == [arms.TWIN, "flora", "flora"]
    lines = (tmp_path / "csv" / "evidence_single.csv").read_text().splitlines()
    table = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [(row["arm"], row["mean_accuracy"]) for row in table] == [(arms.TWIN, "40.0"), ("flora", "40.0")]
    assert any("commit" in line for line in lines) and any("command" in line for line in lines)
    assert not (tmp_path / "csv" / "evidence_single.png").exists()  # there is no baseline to gain over


def test_cells_of_other_settings_are_in_no_table(tool, data, family, tmp_path, monkeypatch, capsys) -> None:
    """Neither those that were there, nor those that another command ends meanwhile."""
    arms, grid_cells = tool.evidence_arms, importlib.import_module("grid_cells")
    monkeypatch.setattr(arms, "TABLES", {"single": ((("clinc150",), ("scarce",), ("one",), (arms.TWIN, "flora")),)})
    twin, flora = arms.cells_of("single", [4], tmp_path)

    def end(cell, rates) -> None:
        grid_cells.note_asked(cell, tool.evidence.configs_of([cell], data, family, rates)[cell])
        leave_outcome(cell)

    where = ["--data", str(data), "--family", str(family), "--out", str(tmp_path), "--results", str(tmp_path / "csv")]
    table = ["--table", "single", *where, "--seeds", "4", "--rates", json.dumps(RATES)]
    end(twin, RATES)
    assert tool.evidence.main([*table, "--jobs", "0", "--rates", '{"lora": 0.1, "head": 3.0}']) == LaunchError.exit_code
    assert not (tmp_path / "csv").exists() and "seed-4: begun with other settings" in capsys.readouterr().err
    monkeypatch.setattr(tool.evidence, "run_missing", lambda configs, jobs: end(flora, {**RATES, "lora": 0.1}))
    assert tool.evidence.main([*table, "--arms", arms.TWIN]) == LaunchError.exit_code
    assert not (tmp_path / "csv").exists() and str(flora.folder) in capsys.readouterr().err


def leave_outcome(cell) -> None:
    """Write what a table reads of a run: one type, two labels, a client that has three times as much of the second."""
    cell.folder.mkdir(parents=True)
    labels = {" a": 0.2, " b": 0.6}
    lines = [{"round": 8, "name": f"{name}/eval", "model_type": "m", "value": 0.4} for name in ("accuracy", "loss")]
    lines += [
        {"round": 8, "name": "accuracy/label", "model_type": "m", "label": label, "value": value}
        for label, value in labels.items()
    ]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clients = [{"client": 0, "model_type": "m", "labels": {" a": 1, " b": 3}}]
    (cell.folder / "data.json").write_text(json.dumps({"label_names": [" a", " b"], "clients": clients}))
    of_type = {"up_bytes_per_client_round": 7, "down_bytes_per_client_round": 9}
    summary = {"strategy": "x", "model_types": {"m": of_type}, "seconds_per_round": 1.5, "compare": {}}
    (cell.folder / "summary.json").write_text(json.dumps(summary))


def test_children_run_side_by_side_and_tell_how_they_ended(tool) -> None:
    told = []
    tool.forked_runs.run_forked(
        [(n, partial(int, n)) for n in (0, 3, 0)], 2, lambda name, code, seconds: told.append((name, code))
    )
    assert sorted(told) == [(0, 0), (0, 0), (3, 3)]


@pytest.fixture
def asked(tool, data, family, tmp_path):
    cell = tool.evidence_arms.Cell("clinc150", "scarce", "one", "fedavg_lora", 1, tmp_path)
    configs = tool.evidence.configs_of([cell], data, family, RATES)
    importlib.import_module("grid_cells").open_cell(cell, configs[cell])
    return cell


def test_a_cell_that_was_begun_with_other_settings_is_refused(tool, data, family, asked) -> None:
    others = tool.evidence.configs_of([asked], data, family, {**RATES, "lora": 0.1})
    with pytest.raises(LaunchError, match=r"seed-1: begun with other settings"):
        tool.evidence.check_asked(others)


def test_one_run_leaves_what_a_table_reads(tool, data, family, tmp_path, monkeypatch) -> None:
    arms = tool.evidence_arms
    monkeypatch.setattr(
        arms, "SHARED_RUN", {**arms.SHARED_RUN, "evaluate": {**arms.SHARED_RUN["evaluate"], "max_rows": 30}}
    )
    monkeypatch.setattr(arms, "SETTINGS", {"scarce": arms.Setting(60, rounds=1, steps=1)})
    cell = arms.Cell("clinc150", "scarce", "one", "fedproto", 1, tmp_path)
    configs = tool.evidence.configs_of([cell], data, family, RATES)
    tool.evidence.run_missing(configs, 1)
    of_run = tool.evidence_rows.read_found(cell)
    assert of_run.of_type.keys() == {"m"} and len(of_run.of_client) == 3
    assert of_run.missing is None and of_run.loss > 0 and of_run.up_bytes > 0


def test_the_script_for_all_tables_names_what_there_is(tool, tmp_path, monkeypatch) -> None:
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    python.chmod(0o755)
    script = ROOT / "tools" / "experiments" / "evidence.sh"
    subprocess.run(
        ["bash", script, "data", "family", "out"], env={"PATH": os.environ["PATH"], "PYTHON": python}, check=True
    )
    calls = [(Path(script).name, words) for script, *words in map(str.split, asked.read_text().splitlines())]
    lines = [tool.evidence._parse(words) for name, words in calls if name == "evidence.py"]
    assert [name for name, _ in calls[len(lines) :]] == ["evidence_cmga.py", "evidence_page.py"]
    assert {options.table for options in lines} == {*tool.evidence_arms.TABLES, "tuning"}
    assert {options.jobs for options in lines} == {2} and {options.out.name for options in lines} == {"out"}
    assert subprocess.run(["bash", script, "data"], capture_output=True).returncode == 2


def test_the_page_has_the_figures_of_the_tables(tool) -> None:
    page = tool.evidence_page.PAGE.read_text(encoding="utf-8")
    assert tool.evidence_page.filled(page, tool.evidence_page.RESULTS) == page


def test_a_table_of_the_page_tells_how_many_seeds_a_figure_has_unless_it_has_all(tool, tmp_path) -> None:
    gain = "gain_over_heterotune"
    header = f"task,setting,fleet,arm,{gain},{gain}_ci95,pairs_with_heterotune"
    rows = ["heterotune,0.0,0.0,5", "silu,-1.04,2.36,5", "align_pca,0.96,,1"]
    lines = ["# a note", header, *(f"clinc150,scarce,widths,{row}" for row in rows), "clinc150,scarce,siblings,x,1,,1"]
    (tmp_path / "evidence_ablation.csv").write_text("\n".join(lines))
    page = tool.evidence_page.filled("Text.\n<!-- table: ablation -->\nold\n<!-- end -->\nMore.", tmp_path)
    assert page.splitlines() == [
        "Text.",
        "<!-- table: ablation -->",
        "| change | siblings | widths |",
        "|---|---|---|",
        "| `align: pca` instead of `gcca_shrunk` | – | +1.0 (1) |",
        "| `activation: silu` | – | −1.0 ± 2.4 |",
        "<!-- end -->",
        "More.",
    ]
