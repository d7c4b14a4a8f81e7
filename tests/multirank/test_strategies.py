"""Every method, found by enumeration: the same bits on any number of ranks and after a resume, and its plan's bytes.

What each learns, and what docs say of its bytes, is in test_every_strategy_learns.py.

A job runs all methods one after the other (`compare_with`), so that starting processes is paid for once.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.config.load import load_run
from heterotune.config.methods import METHODS
from heterotune.planning.calibration import CPU_CORE
from heterotune.planning.client_bytes import federation_bytes
from heterotune.planning.cluster import Cluster
from heterotune.planning.plan import PLANNED_STRATEGIES, setting_of

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
OF_METHOD = {name: {"adapter_rank": 2} for name in METHODS if name != "fedavg_full"} | {
    # Single updates at the root; the default, without them, is in test_whole_run.py and test_resume.py.
    "heterotune": {
        "adapter_rank": 2,
        "head_rank": 4,
        "head_outputs": "labels",
        "head_basis": 7,  # as many as the run finds, so that a plan, which reads no data, knows them
        "align_tokens": 16,
        "align_positions": "answer",
        "head_scope": "type",
        "distill_every": 1,
        "distill_steps": 2,
        "cmga": "cagrad",
        "cmga_tasks": "clients",
    },
}
RUN = {
    "name": "strategies",
    "seed": 5,
    "rounds": 2,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 3},
        {"name": "a-half", "model": f"{MODEL},num_hidden_layers=1", "clients": 2, "siblings_of": "a", "layers": [1]},
    ],
    "data": {
        "fields": {"text": "text", "label": "owner"},  # fedproto needs classes
        "loss": "all",
        "partition": {"by": "natural", "key": "owner"},
        "max_tokens": 16,
    },
    "cohort": {"fraction": 0.7},
    "local": {"steps": 3, "batch_size": 2, "learning_rate": 2e-2},
    "strategy": "heterotune",
    "compare_with": [name for name in METHODS if name != "heterotune"],
    **OF_METHOD,
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "checkpoint": {"keep_best": False},
    "evaluate": {"max_rows": 8, "batch_size": 8},
}
RESULTS = ("loss", "perplexity", "cmga", "distill")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, write_run) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    return write_run(folder, {**RUN, "data": {**RUN["data"], "public": str(folder / "corpus.jsonl")}}, 5)


@pytest.fixture(scope="module")
def work(work_on, run_file):
    return work_on(run_file)


@pytest.fixture(scope="module")
def on_one_rank(work) -> Path:
    return work("one", 1)


def part_of(run: Path, method: str) -> Path:
    return run if method == "heterotune" else run / "compare" / method


def results(run: Path, method: str) -> dict[str, object]:
    """What must not depend on the cluster or on interruptions."""
    part = part_of(run, method)
    metrics = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, object] = {
        "digest": json.loads((part / "summary.json").read_text())["global_adapter_sha256"],
        "metrics": [entry for entry in metrics if entry["name"].startswith(RESULTS)],
        "ledger": (part / "ledger.jsonl").read_text(),
    }
    found["adapters"] = {path.name: path.read_bytes() for path in (part / "adapters").iterdir()}
    return found


@pytest.mark.timeout(600)
def test_two_ranks_then_four_in_a_resumed_run_come_to_the_bits_of_one(work, on_one_rank, kept_by_clients):
    """Round 1 on two ranks, round 2 after a resume on four: one job fewer than each by itself, and as strict.

    The ranks of both jobs are dedicated to a model type each, and that of the one rank holds both.
    """
    work("more", 2, "--set", "rounds=1", "--set", "placement=dedicated")
    resumed = work("more", 4, "--resume", "--set", "placement=dedicated")
    for method in METHODS:
        found, wanted = results(resumed, method), results(on_one_rank, method)
        assert all(found[name] == wanted[name] for name in wanted), method
        parts = (part_of(run, method) for run in (resumed, on_one_rank))
        assert len(set(map(frozenset, (kept_by_clients(part).items() for part in parts)))) == 1, method


@pytest.mark.parametrize("method", PLANNED_STRATEGIES)
def test_the_plans_client_bytes_are_those_of_the_ledger(on_one_rank, run_file, method):
    part = on_one_rank if method == "heterotune" else on_one_rank / "compare" / method
    entries = [json.loads(line) for line in (part / "ledger.jsonl").read_text().splitlines()]
    config = load_run(run_file, [f"strategy={method}", "compare_with=[]"])
    told = federation_bytes(setting_of(config, Cluster(), CPU_CORE))
    assert sum(entry["bytes"] for entry in entries) == told.total_bytes
    for entry in entries:
        name, group = entry["model_type"], entry["group"]
        of_direction = told.up if entry["direction"] == "up" else told.down
        assert entry["bytes"] == of_direction[name].get(group, told.down_once[name].get(group)), entry
