"""Virtual time in whole runs: the same bits and the same seconds on 1 rank, and on 3 ranks that stopped and went on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

CASE = Path(__file__).parent / "cases" / "virtual_clock.py"
MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
PHONE = {"flops_per_second": 1e8, "memory_gib": 4, "down_mbit_per_second": 1, "up_mbit_per_second": 0.5}
SPREAD = {"profile": "phone", "flops_spread": 0.9, "bandwidth_spread": 0.7}
RUN = {
    "name": "clock",
    "seed": 5,
    "rounds": 4,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 5},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1,seed=3", "clients": 4},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "iid"}, "max_tokens": 16},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 4, "every_rounds": 4},
    "misbehaviour": {"dropout": 0.15},
    "devices": {
        "profiles": {"phone": {**PHONE, "latency_seconds": 0.1, "compute_watts": 4.0, "radio_watts": 1.0}},
        "assign": {"a": SPREAD, "b": SPREAD},
    },
}

COMPARED = ("synchronous", "accept", "buffered")


@pytest.fixture(scope="module")
def jobs(run_mpi, tmp_path_factory) -> dict[int, Path]:
    """Number of ranks -> the folder of a job that ran all modes; that of 3 ranks stopped after round 2 and went on."""
    folder = tmp_path_factory.mktemp("clock")
    lines = [{"text": f"def f{number}(x):\n    return x + {number}\n" * 2} for number in range(60)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**RUN, "data": {**RUN["data"], "source": str(folder / "corpus.jsonl")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    for num_ranks, rounds_before, modes in ((1, 0, ("none", "patient", "masked", *COMPARED)), (3, 2, COMPARED)):
        arguments = [CASE, folder / "run.yaml", folder / str(num_ranks), str(rounds_before), *modes]
        ended = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=240, environment={"DS_ACCELERATOR": "cpu"})
        assert ended.returncode == 0, ended.output
    return {1: folder / "1", 3: folder / "3"}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def clock_metrics(folder: Path) -> dict[tuple[int, str], float]:
    found = lines_of(folder / "metrics.jsonl")
    return {(line["round"], line["name"]): line["value"] for line in found if line["name"].startswith("clock/")}


def results(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("mode", COMPARED)
def test_neither_ranks_nor_resuming_change_anything(jobs, mode):
    assert results(jobs[1])[mode] == results(jobs[3])[mode]
    for file in ("ledger.jsonl", "timeline.jsonl"):
        assert (jobs[1] / mode / file).read_text() == (jobs[3] / mode / file).read_text()
    metrics = clock_metrics(jobs[1] / mode)
    assert metrics == clock_metrics(jobs[3] / mode) and max(number for number, _ in metrics) == 4


def test_where_all_count_a_clock_changes_no_bit(jobs):
    found = {name: result["digest"] for name, result in results(jobs[1]).items()}
    assert found["none"] == found["synchronous"] == found["patient"]
    assert len({found[mode] for mode in COMPARED}) == 3
    ledgers = {(jobs[1] / name / "ledger.jsonl").read_text() for name in ("none", "synchronous", "patient")}
    assert len(ledgers) == 1 and not (jobs[1] / "none" / "timeline.jsonl").exists()
    assert results(jobs[1])["synchronous"]["virtual_seconds"] == results(jobs[1])["patient"]["virtual_seconds"]


@pytest.mark.parametrize("mode", ("masked", *COMPARED))
def test_a_clients_time_is_that_of_its_real_bytes(jobs, mode):
    num_bytes: Counter = Counter()
    for line in lines_of(jobs[1] / mode / "ledger.jsonl"):
        num_bytes[line["round"], line["client"], line["direction"]] += line["bytes"]
    timeline = lines_of(jobs[1] / mode / "timeline.jsonl")
    assert any(line["dropped_out"] for line in timeline) and not all(line["dropped_out"] for line in timeline)
    for line in timeline:
        client = line["round"], line["client"]
        assert line["down_bytes"] == num_bytes[*client, "down"] > 0
        assert line["up_bytes"] == (None if line["dropped_out"] else num_bytes[*client, "up"])
        assert (line["flops"] > 0) != line["dropped_out"]  # it drops out before its first step
        parts = line["download_seconds"] + line["compute_seconds"] + line["upload_seconds"]
        assert line["end_seconds"] == line["start_seconds"] + parts


def test_a_buffer_takes_the_earliest_of_all_that_are_on_their_way(jobs):
    folder, waiting, ages = jobs[1] / "buffered", [], []
    metrics, timeline = clock_metrics(folder), lines_of(folder / "timeline.jsonl")
    for number in range(1, 5):
        waiting += [line for line in timeline if line["round"] == number and not line["dropped_out"]]
        waiting.sort(key=lambda line: (line["end_seconds"], line["client"]))
        taken, waiting = waiting[:2], waiting[2:]
        assert metrics[number, "clock/seconds"] == taken[-1]["end_seconds"]
        ages.append(sum(number - line["round"] for line in taken) / 2)
        assert metrics[number, "clock/staleness"] == ages[-1]
    assert max(ages) > 0
    held = {int(path.stem.rpartition("-")[2]) for path in (folder / "in_flight").iterdir()}
    assert held == {line["client"] for line in waiting}


def test_a_deadline_ends_a_round_with_clients_on_their_way(jobs):
    metrics = clock_metrics(jobs[1] / "accept")
    assert max(value for (_, name), value in metrics.items() if name == "clock/round_seconds") == pytest.approx(0.9)
    assert any(value for (_, name), value in metrics.items() if name == "clock/in_flight")
    assert any(value for (_, name), value in metrics.items() if name == "clock/staleness_max")
