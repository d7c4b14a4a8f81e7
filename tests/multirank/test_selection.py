"""Guided cohorts of a fleet that sleeps and stops: the same bits on any number of ranks and after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "selection",
    "seed": 5,
    "rounds": 4,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 8},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1,seed=3", "clients": 6},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "cohort": {"clients": 7, "select": "oort", "oort": {"exploration": 0.5, "pacer_rounds": 1}},
    "availability": {"model": "diurnal", "share": 0.65, "start_spread": 0.5, "round_seconds": 30000},
    "misbehaviour": {
        "interrupted": {"probability": 0.3},
        "slow": {"spread": 1.0, "deadline_seconds": 100.0},
    },
    "collective": {"wire": "topk", "topk_share": 0.2},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 0},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 8},
    "checkpoint": {"progress_seconds": 0},
}
INTERRUPTED = Path(__file__).parent / "cases" / "interrupted_rank.py"
RESULTS = ("loss", "clients", "cohort", "oort", "round")


@pytest.fixture
def work(run_mpi, tmp_path):
    """Run a worker; returns how the job ended and its folder."""
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner in range(14)
        for number in range(4 + owner)
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**RUN, "data": {**RUN["data"], "source": str(tmp_path / "corpus.jsonl")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))

    def work(name: str, *options: str, num_ranks: int, case: tuple = ("-m", "heterotune.worker")):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        arguments = [*case, tmp_path / "run.yaml", "--run-dir", out, *options]
        ended = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=120, environment={"DS_ACCELERATOR": "cpu"})
        return ended, out

    return work


@pytest.mark.timeout(300)
def test_cohorts_learn_alike_on_any_ranks_and_after_a_resume(work, result_of):
    ended, out = work("alone", num_ranks=1)
    assert ended.returncode == 0, ended.output
    alone = result_of(out, RESULTS)
    killed, _ = work("killed", num_ranks=2, case=(INTERRUPTED, "SIGKILL", "3", "1"))
    assert killed.returncode != 0
    ended, out = work("killed", "--resume", num_ranks=1)
    assert ended.returncode == 0 and "chunks were finished before" in ended.output, ended.output
    assert result_of(out, RESULTS) == alone

    values: dict[str, list[float]] = {}
    for entry in alone["metrics"]:
        values.setdefault(entry["name"], []).append(entry["value"])
    drawn = values["cohort/drawn_seconds"]
    assert drawn == sorted(drawn) and sum(values["cohort/waited_seconds"]) > 0.0
    assert sum(values["clients/interrupted"]) > 0 and sum(values["clients/interrupted_steps"]) < sum(
        2 * number for number in values["clients/interrupted"]
    )
    entries = [json.loads(line) for line in alone["ledger"].splitlines()]
    reports = [entry for entry in entries if entry["group"] == "selection.report"]
    assert len(reports) == sum(values["clients/counted"]), "each client that counts reports once a round"
    assert values["clients/seen"][-1] == len({entry["client"] for entry in reports})
    downloads = {(entry["round"], entry["client"]) for entry in entries if entry["direction"] == "down"}
    assert len(downloads) == 4 * 7, "those that stopped had downloaded"
    kept = {client_id for _, _, client_id in alone["clients"]}
    assert kept == {entry["client"] for entry in reports}, "who stopped keeps what it had before the round"
