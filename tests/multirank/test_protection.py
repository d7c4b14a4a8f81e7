"""Runs whose clients misbehave: the same bits on any number of ranks and after a resume, and who was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "protection",
    "seed": 5,
    "rounds": 3,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 7},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1,seed=3", "clients": 5},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 0},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 8},
    "checkpoint": {"progress_seconds": 0},
}
INTERRUPTED = Path(__file__).parent / "cases" / "interrupted_rank.py"
RESULTS = ("loss", "clients", "round", "update", "aggregate", "privacy", "secure")


@pytest.fixture
def work(run_mpi, tmp_path):
    """Run a worker with changes to RUN; returns how the job ended and its folder."""
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner in range(12)
        for number in range(4 + owner)
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def work(name: str, changes: dict[str, Any], *options: str, num_ranks: int, case: tuple = ()):
        run = {**RUN, **changes, "data": {**RUN["data"], "source": str(tmp_path / "corpus.jsonl")}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        arguments = [*(case or ("-m", "heterotune.worker")), tmp_path / "run.yaml", "--run-dir", out, *options]
        ended = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=120, environment={"DS_ACCELERATOR": "cpu"})
        return ended, out

    return work


@pytest.fixture
def result(work, result_of):
    """Run a worker that must end well; returns what must not depend on ranks or interruptions."""

    def result(*arguments: Any, **options: Any) -> dict[str, Any]:
        ended, out = work(*arguments, **options)
        assert ended.returncode == 0, ended.output
        return result_of(out, RESULTS)

    return result


def numbers(result: dict[str, Any], name: str) -> dict[int, Any]:
    """Return round -> value of a metric that a round has once."""
    return {entry["round"]: entry["value"] for entry in result["metrics"] if entry["name"] == name}


@pytest.fixture
def resumed(work, result_of):
    """Kill rank 1 in the middle of a round on two ranks and go on with one; returns as `result` does."""

    def resumed(changes: dict[str, Any], round_number: int) -> dict[str, Any]:
        killed, _ = work("killed", changes, num_ranks=2, case=(INTERRUPTED, "SIGKILL", str(round_number), "1"))
        assert killed.returncode != 0
        ended, out = work("killed", changes, "--resume", num_ranks=1)
        assert ended.returncode == 0, ended.output
        assert f"round {round_number}: " in ended.output and "chunks were finished before" in ended.output
        return result_of(out, RESULTS)

    return resumed


@pytest.mark.timeout(300)
def test_lost_late_and_faulty_clients_are_left_out_alike_on_any_ranks_and_after_a_resume(result, resumed):
    changes = {
        "collective": {"wire": "topk", "topk_share": 0.2},
        "updates": {"max_norm_factor": 50.0},
        "cohort": {"min_clients": 3},
        "misbehaviour": {
            "dropout": 0.2,
            "slow": {"spread": 1.0, "deadline_seconds": 4.0},
            "byzantine": {"behaviour": "gaussian_noise", "sigma": 1e39, "clients": [3, 8]},
        },
    }
    alone = result("alone", changes, num_ranks=1)
    counted, faulty = numbers(alone, "clients/counted"), numbers(alone, "clients/not_finite")
    absent = [numbers(alone, f"clients/{reason}") for reason in ("dropped_out", "late")]
    assert all(sum(of_reason.values()) > 0 for of_reason in (faulty, *absent))
    for round_number in (1, 2, 3):
        assert counted[round_number] + faulty[round_number] + sum(each[round_number] for each in absent) == 12
    assert numbers(alone, "round/skipped") == {1: 0, 2: 0, 3: 0}
    entries = [json.loads(line) for line in alone["ledger"].splitlines()]
    down = {(entry["round"], entry["client"]) for entry in entries if entry["direction"] == "down"}
    assert len(down) == 36, "absent clients downloaded, too"
    sharded = {**changes, "collective": {**changes["collective"], "topology": "sharded"}}
    assert result("sharded", sharded, num_ranks=3) == alone
    assert resumed(changes, 2) == alone


@pytest.mark.timeout(200)
def test_a_round_without_anybody_changes_nothing_and_one_without_a_type_leaves_it_out(result):
    everybody_late = {"slow": {"spread": 0.0, "deadline_seconds": 1.0}}
    changes = {"rounds": 2, "collective": {"topology": "sharded"}, "misbehaviour": everybody_late}
    skipped = result("late", changes, num_ranks=2)
    assert numbers(skipped, "round/skipped") == {1: 1, 2: 1} and numbers(skipped, "clients/late") == {1: 12, 2: 12}
    losses = [entry["value"] for entry in skipped["metrics"] if entry["name"] == "loss/eval" and "model_type" in entry]
    assert losses[:2] == losses[2:4] == losses[4:]
    type_b = {"byzantine": {"behaviour": "scale", "factor": 1e300, "clients": list(range(7, 12))}}
    one_type = result("one", {**changes, "misbehaviour": type_b, "collective": {}}, num_ranks=2)
    assert numbers(one_type, "clients/counted") == {1: 7, 2: 7}
    losses = [entry["value"] for entry in one_type["metrics"] if entry["name"] == "loss/eval" and "model_type" in entry]
    assert losses[1] == losses[3] == losses[5] and losses[0] > losses[2] > losses[4]


@pytest.mark.timeout(200)
def test_hostile_clients_hurt_the_mean_and_not_the_median(result):
    hostile = {"byzantine": {"behaviour": "scale", "factor": -30.0, "clients": [2, 9]}}
    changes = {
        "misbehaviour": hostile,
        "strategy": "fedavg_lora",
        "local": {**RUN["local"], "steps": 6, "learning_rate": 3e-2},
    }
    losses, digests = {}, {}
    for rule, ranks in {"mean": (1,), "median": (1, 3)}.items():
        for num_ranks in ranks:
            options = {"rule": rule, "attacker_share": 0.2}
            found = result(f"{rule}-{num_ranks}", {**changes, "aggregate": options}, num_ranks=num_ranks)
            losses[rule] = [
                entry["value"] for entry in found["metrics"] if entry["name"] == "loss/eval" and "model_type" in entry
            ]
            digests[rule, num_ranks] = found["sha256"]
    assert digests["median", 1] == digests["median", 3]
    for place in (0, 1):
        before, mean = losses["mean"][place], losses["mean"][-2 + place]
        assert mean > before > losses["median"][-2 + place]
    assert {entry["value"] for entry in found["metrics"] if entry["name"] == "aggregate/chosen"} == {7, 5}


@pytest.mark.timeout(300)
def test_noise_is_the_same_on_any_ranks_under_masks_and_after_a_resume(result, resumed):
    pytest.importorskip("dp_accounting")
    changes = {
        "privacy": {"mechanism": "gaussian", "clip_norm": 0.2, "noise_multiplier": "auto", "target_epsilon": 40.0},
        "misbehaviour": {"dropout": 0.2, "byzantine": {"behaviour": "gaussian_noise", "sigma": 1e39, "clients": [8]}},
    }
    alone = result("alone", changes, num_ranks=1)
    spent = [entry["value"] for entry in alone["metrics"] if entry["name"] == "privacy/epsilon"]
    assert len(spent) == 9 and spent == sorted(spent) and 38.0 < spent[-1] <= 40.0
    assert result("sharded", {**changes, "collective": {"topology": "sharded"}}, num_ranks=2) == alone
    secure = {**changes, "secure_aggregation": {"enabled": True}}
    masked = resumed(secure, 2)
    assert masked["sha256"] == alone["sha256"]
    assert [entry["value"] for entry in masked["metrics"] if entry["name"] == "privacy/epsilon"] == spent
    recovered = [entry["value"] for entry in masked["metrics"] if entry["name"] == "secure_sum/recovered"]
    assert len(recovered) == 6 and sum(recovered) > 0
    groups = {entry["group"] for entry in map(json.loads, masked["ledger"].splitlines()) if entry["direction"] == "up"}
    assert groups == {f"secure_sum.{kind}" for kind in ("keys", "shares", "masked", "revealed")}
