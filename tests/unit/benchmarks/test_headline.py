"""The headline experiment: its arithmetic on run folders made up here, and what its YAML files ask for."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from heterotune.config.load import load_run

ROOT = Path(__file__).parents[3]
MODULES = ("tables", "headline_report", "headline_wire", "headline_tables", "headline")


@pytest.fixture(scope="module")
def headline() -> Iterator[SimpleNamespace]:
    """The experiment's modules; scripts that import one another by bare names, so they are forgotten afterwards."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "tools" / "experiments"), str(ROOT / "tools" / "benchmarks")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in {*MODULES, "report"} - known:
        sys.modules.pop(name, None)


def message(round_number, client, direction, group, num_bytes, model_type="a"):
    return {
        "round": round_number,
        "client": client,
        "model_type": model_type,
        "direction": direction,
        "group": group,
        "bytes": num_bytes,
    }


def make_run(headline, folder: Path, method: str, losses: list[float], num_bytes: int, *, once: int = 0, seed: int = 1):
    """A run of two clients of types a and b, both in every round; type b's loss is 1 above type a's."""
    folder = folder / f"{method}-{seed}"
    folder.mkdir()
    rounds = range(1, len(losses))
    ledger = [
        message(number, client, way, "w", num_bytes * (client + 1), "ab"[client])
        for number in rounds
        for client in (0, 1)
        for way in ("up", "down")
    ]
    ledger += [message(1, client, "down", "frozen", once, "ab"[client]) for client in (0, 1) if once]
    metrics = [
        {"round": number, "name": "loss/eval", "model_type": name, "value": loss + extra}
        for number, loss in enumerate(losses)
        for name, extra in (("a", 0.0), ("b", 1.0))
    ]
    memory = [
        {"round": 1, "mpi_rank": mpi_rank, "phase": phase, "kind": "host_resident", "peak_bytes": peak + mpi_rank}
        for mpi_rank in (0, 1)
        for phase, peak in (("load", 900), ("train", 600), ("encode", 700))
    ]
    for name, lines in (("ledger", ledger), ("metrics", metrics), ("memory", memory)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return headline.headline_report.MethodRun(method, seed, folder)


@pytest.fixture
def runs(headline, tmp_path):
    """Whole models get to 2.5 in round 1; LoRA gets there in round 3 and is the worst; heterotune in round 2."""
    return [
        make_run(headline, tmp_path, "fedavg_full", [3.0, 2.5, 2.4, 2.3], 1000),
        make_run(headline, tmp_path, "fedavg_lora", [3.0, 2.8, 2.6, 2.5], 10),
        make_run(headline, tmp_path, "heterotune", [3.0, 2.7, 2.4, 2.6], 10, once=100),
    ]


def test_bytes_of_a_client_and_round_by_type_and_what_travels_once(headline, runs):
    assert runs[0].message_bytes() == {"up": 1500.0, "down": 1500.0, "down_once": 0.0}
    assert runs[2].message_bytes("b") == {"up": 20.0, "down": 20.0, "down_once": 100.0}
    rows = {(row["method"], row["model_type"]): row for row in headline.headline_report.communication_rows(runs)}
    assert rows["heterotune", "a"]["below_full_percent"] == 99.0 == rows["fedavg_lora", "all"]["below_full_percent"]
    assert rows["fedavg_full", "all"]["below_full_percent"] == ""


def test_the_target_is_what_the_worst_method_reaches_and_bytes_count_until_then(headline, runs):
    report = headline.headline_report
    assert report.target_losses(runs) == {1: 3.0}  # 2.5 and 3.5 of the two types
    rows = {row["method"]: row for row in report.communication_rows(runs) if row["model_type"] == "all"}
    assert {name: row["rounds_to_target"] for name, row in rows.items()} == {
        "fedavg_full": 1,
        "fedavg_lora": 3,
        "heterotune": 2,
    }
    assert rows["fedavg_full"]["bytes_to_target"] == 3000
    assert rows["fedavg_lora"]["bytes_to_target"] == 3 * 30
    assert rows["heterotune"]["bytes_to_target"] == 2 * 30 + 100


def test_quality_is_over_seeds(headline, tmp_path):
    runs = [
        make_run(headline, tmp_path, "heterotune", [3.0, loss], 1, seed=seed) for seed, loss in ((1, 2.0), (2, 2.2))
    ]
    first, second = headline.headline_report.quality_rows(runs)
    assert first == {
        "method": "heterotune",
        "model_type": "a",
        "seeds": 2,
        "loss_before": 3.0,
        "loss_after": 2.1,
        "sd": 0.1414,
        "perplexity_after": 8.17,
    }
    assert second["loss_after"] == 3.1


def test_memory_is_of_the_rank_that_takes_most_with_and_without_the_runtime(headline, runs):
    report = headline.headline_report
    assert runs[0].peak_bytes() == {"host_resident": {"train": 601, "all": 901}}
    peaks = {
        "fedavg_full": {"host_resident": {"train": 900, "all": 1000}},
        "heterotune": {"host_resident": {"train": 500, "all": 600}},
        report.PLAIN: {"host_resident": {"train": 800, "all": 800}},
    }
    full, heterotune, plain = report.memory_rows("a model", peaks, 400)
    assert heterotune["peak_less_runtime_bytes"] == 200 and heterotune["train_peak_bytes"] == 500
    assert heterotune["peak_below_full_percent"] == 40.0 and heterotune["peak_below_plain_percent"] == 25.0
    assert heterotune["peak_less_runtime_below_full_percent"] == 66.67
    assert full["peak_below_full_percent"] == plain["peak_below_plain_percent"] == ""


def test_a_round_on_the_wire_is_encoded_message_by_message(headline):
    model = "random:hidden_size=16,intermediate_size=24,num_hidden_layers=2,num_attention_heads=2,vocab_size=64"
    full = headline.headline_wire.count_round("fedavg_full", model)
    num_groups = 2 * 2 + 2  # two blocks a layer, embedding, final norm
    assert full["messages"] == 2 * num_groups and full["trained_elements"] == full["parameters"]
    assert full["up_bytes"] == full["down_bytes"] == 4 * full["parameters"] + 32 * num_groups
    adapters = headline.headline_wire.count_round("heterotune", model)
    assert adapters["down_once_bytes"] == 4 * (17 * 16 + 64 * 64) + 2 * 32  # a head rank of 16 is all that fits
    row = headline.headline_report.wire_rows("tiny", [full, adapters])[1]
    all_bytes = sum(adapters[f"{kind}_bytes"] for kind in ("up", "down", "down_once"))
    assert row["first_round_below_full_percent"] == round(100 * (1 - all_bytes / (2 * full["up_bytes"])), 3)


def test_the_page_has_every_table_and_the_picture_is_drawn(headline, runs, tmp_path):
    report = headline.headline_report
    peaks = {run.method: run.peak_bytes() for run in runs}
    answer = {"parameters": 9, "up_bytes": 100, "down_bytes": 100, "down_once_bytes": 0, "seconds": 0.1}
    plan = {
        "title": "a fleet",
        "seeds": [1],
        "methods": {run.method: {"learning_rate": 0.001} for run in runs},
        "tuning": {"seed": 5},
        "wire": {"title": "7B"},
    }
    headline.headline_tables.write_report(
        tmp_path,
        "headline",
        plan=plan,
        runs=runs,
        peaks={"a fleet": peaks, "a model": peaks},
        runtime_bytes=400,
        wire=[{"method": run.method, **answer} for run in runs],
        commits=["abc"],
    )
    page = (tmp_path / "headline.md").read_text()
    assert all(f"## {title}" in page for title in headline.headline_tables.TITLES.values())
    assert "| fedavg_full | all | 1.46 KiB | 1.46 KiB | 0 B | 3.0 | 1 | 2.93 KiB |  |" in page
    assert (tmp_path / "headline.png").stat().st_size > 10_000
    assert (tmp_path / "headline_wire.csv").read_text().splitlines()[-1].startswith("7B,heterotune")
    assert report.FULL in page


def test_what_is_done_is_not_done_again_unless_the_question_changed(headline, tmp_path, capsys):
    experiment, calls = headline.headline.Experiment({}, tmp_path), []
    for question in ("a", "a", "b"):
        headline.headline._once(experiment, "piece/one", {"q": question}, lambda q=question: calls.append(q))
    assert calls == ["a", "b"]


def test_a_report_without_its_runs_says_so(headline, tmp_path):
    plan = yaml.safe_load((ROOT / "tools/experiments/headline.yaml").read_text())
    with pytest.raises(SystemExit, match="15 runs are not done yet, for example .*fedavg_full-17"):
        headline.headline.report_parts(headline.headline.Experiment(plan, tmp_path))


@pytest.mark.parametrize("name", ["headline.yaml", "headline_gpu.yaml"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_run_that_is_asked_for_is_a_valid_one(headline, tmp_path, name, quick):
    plan = yaml.safe_load((ROOT / "tools" / "experiments" / name).read_text())
    changes = plan.pop("quick")
    plan = headline.headline._merged(plan, changes) if quick else plan
    experiment = headline.headline.Experiment(plan, tmp_path)
    assert set(plan["methods"]) == set(plan["tuning"]["learning_rates"])
    assert plan["tuning"]["seed"] not in plan["seeds"]
    for method in experiment.methods:
        settings = experiment.settings(method, experiment.first_seed, experiment.learning_rate(method))
        config = load_run(ROOT / plan["run"], settings)
        assert config.strategy == method and not config.compare_with
