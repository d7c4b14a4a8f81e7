"""Accuracy, exact match, clients' figures and own adapters: the same numbers on any number of ranks; TensorBoard."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heterotune.report.tensorboard import TensorboardScalars

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=4096,initializer_range=0.2"
RUN = {
    "name": "evaluation",
    "seed": 5,
    "rounds": 2,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 4},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1,seed=3", "clients": 2},
    ],
    "data": {
        "fields": {"question": "question", "choices": "choices", "answer": "answer"},
        "partition": {"by": "natural", "key": "owner"},
        "max_tokens": 16,
        "heldout_fraction": 0.5,
    },
    "local": {"steps": 4, "batch_size": 4, "learning_rate": 3e-2},
    "strategy": "heterotune",
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64, "personal_rank": 1},
    "chunk": {"clients": 2},
    "evaluate": {
        "max_rows": 22,
        "batch_size": 4,
        "metrics": ["loss", "accuracy", "exact_match"],
        "max_new_tokens": 3,
    },
}
MEASURES = ("loss/", "perplexity/", "accuracy/", "exact_match/")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    answers = ((" x", " self", " None"), (" x + 1", " self", "\n    return x"))
    lines = [
        {
            "owner": f"owner {owner}",
            "question": f"def f{n}({'x, ' * (n % 3)}):",
            "choices": answers[n % 2],
            "answer": answers[n % 2][(n // 2 + owner) % 3],
        }
        for owner, size in enumerate([12, 4, 9, 3, 8, 6])
        for n in range(size)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**RUN, "data": {**RUN["data"], "source": str(folder / "corpus.jsonl")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def run(run_mpi, run_file):
    """Run the federation on a number of ranks; returns the run folder."""

    def on(num_ranks: int, ds_config: str, *options: str, out: Path | None = None) -> Path:
        out = out or run_file.parent / f"{ds_config}-{num_ranks}"
        out.mkdir(exist_ok=True)
        settings = ["--set", f"backbone.ds_config={ds_config}", *options]
        arguments = ["-m", "heterotune.worker", run_file, "--run-dir", out, *settings]
        ended = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=200, environment={"DS_ACCELERATOR": "cpu"})
        assert ended.returncode == 0, ended.output
        return out

    return on


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def measured(run: Path) -> list[dict]:
    return [entry for entry in metrics(run) if entry["name"].startswith(MEASURES)]


@pytest.mark.timeout(500)
def test_every_figure_is_the_same_on_one_rank_and_on_ranks_in_lock_step(run) -> None:
    """Of an odd number of passes the ranks get unequal shares, and what a model writes ends at any length."""
    one, two = run(1, "zero3_cpu"), run(2, "zero3_cpu", "--set", "tensorboard=false")
    assert measured(two) == measured(one)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (two, one)]
    assert len({summary["global_adapter_sha256"] for summary in summaries}) == 1
    assert summaries[0]["model_types"]["a"] == summaries[1]["model_types"]["a"]
    check_figures(one)
    check_scalars(one)
    assert not (two / "tensorboard").exists()


def check_figures(run: Path) -> None:
    """Every measure is there in every round, and a type's is what its clients' are together."""
    found = defaultdict(dict)
    for entry in measured(run):
        key = entry.get("model_type"), entry.get("client")
        assert key not in found[entry["round"], entry["name"]], f"twice: {entry}"
        found[entry["round"], entry["name"]][key] = entry["value"]
    assert {number for number, _ in found} == {0, 1, 2}
    for number in (0, 1, 2):
        for name in ("loss", "accuracy", "exact_match"):
            of_type = found[number, f"{name}/eval"]
            assert of_type[None, None] == np.mean([of_type["a", None], of_type["b", None]])
            of_client = found[number, f"{name}/client"]
            assert {client: name for name, client in of_client} == dict.fromkeys(range(4), "a") | {4: "b", 5: "b"}
            mine = [of_client["b", 4], of_client["b", 5]]
            worst = max(mine) if name == "loss" else min(mine)
            assert found[number, f"{name}/worst_client"]["b", None] == worst
            assert found[number, f"{name}/client_spread"]["b", None] == pytest.approx(abs(mine[0] - mine[1]) / 2)
        assert found[number, "loss/personal"].keys() == found[number, "accuracy/personal"].keys()
    untrained = found[0, "loss/personal_client"], found[0, "loss/client"]
    assert untrained[0] == pytest.approx(untrained[1], rel=1e-5), "own tensors start as zero"
    assert found[2, "loss/personal_client"] != pytest.approx(found[2, "loss/client"], rel=1e-5)
    model_type = json.loads((run / "summary.json").read_text())["model_types"]["a"]
    for name, metric in {"accuracy": "accuracy/eval", "personal_loss": "loss/personal"}.items():
        for when, number in (("before", 0), ("after", 2)):
            assert model_type[f"{name}_{when}"] == found[number, metric]["a", None]
    accuracies = {value for (_, name), of in found.items() if name == "accuracy/client" for value in of.values()}
    assert len(accuracies) > 2, "the questions tell the rounds and the clients apart"


def scalars(run: Path, strategy: str = "heterotune") -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard" / strategy), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def check_scalars(run: Path) -> None:
    """TensorBoard shows what metrics.jsonl and the ledger say, each round once; single clients are left out."""
    found = scalars(run)
    expected = defaultdict(list)
    for entry in metrics(run):
        labels = [str(value) for key, value in entry.items() if key in ("model_type", "group", "pair")]
        labels += [f"rank-{entry['mpi_rank']}"] if "mpi_rank" in entry else []
        if "client" not in entry:
            expected["/".join([entry["name"], *labels])].append((entry["round"], np.float32(entry["value"])))
    extra = {"bytes/up", "bytes/down", "peak_bytes/host_resident/rank-0"}
    assert extra <= found.keys()
    assert {tag for tag in found if not tag.startswith(("bytes/", "peak_bytes/"))} == expected.keys()
    assert {tag: found[tag] for tag in expected} == expected
    assert {"loss/eval/a", "accuracy/eval/b", "loss/train/a", "rank/idle_share/rank-0"} <= expected.keys()
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    for way in ("up", "down"):
        sent = {r: sum(e["bytes"] for e in ledger if (e["round"], e["direction"]) == (r, way)) for r in (1, 2)}
        assert found[f"bytes/{way}"] == list(sent.items())


@pytest.mark.timeout(300)
def test_a_run_that_goes_on_shows_every_round_once(run, run_file) -> None:
    """The first job's event file has rounds beyond its newest checkpoint, as a killed job leaves it."""
    out = run_file.parent / "resumed"
    run(1, "none", "--set", "rounds=1", out=out)
    later = TensorboardScalars(out / "tensorboard" / "heterotune", first_round=2)
    later.add([{"round": 2, "name": "loss/eval", "model_type": "a", "value": 99.0}])
    later.close()
    run(1, "none", "--resume", out=out)
    check_scalars(out)
    check_figures(out)
