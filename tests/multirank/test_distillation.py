"""Lessons over sharded backbones: ranks in lock step come to the bits of one rank, and ledgers know nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "lessons",
    "seed": 5,
    "rounds": 2,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 2},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1".replace("16", "24"), "clients": 2},
    ],
    "data": {
        "fields": {"text": "text", "label": "owner"},
        "partition": {"by": "natural", "key": "owner"},
        "max_tokens": 16,
    },
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "align_tokens": 16, "distill_every": 1, "distill_steps": 2},
    "backbone": {"ds_config": "zero3_cpu"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 8},
}


@pytest.fixture(scope="module")
def work(work_on, write_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lessons")
    return work_on(write_run(folder, {**RUN, "data": {**RUN["data"], "public": str(folder / "corpus.jsonl")}}, 4))


def losses(run: Path) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["name"] == "distill/loss"]


def test_ranks_that_share_a_backbone_teach_as_one_rank_does(work) -> None:
    one, two, untaught = work("one", 1), work("two", 2), work("untaught", 1, "--set", "heterotune.distill_steps=0")
    digests = [json.loads((run / "summary.json").read_text())["global_adapter_sha256"] for run in (one, two, untaught)]
    assert digests[0] == digests[1] != digests[2]
    assert losses(one) == losses(two) and len(losses(one)) == 2 * 2 and not losses(untaught)
    assert (one / "ledger.jsonl").read_text() == (untaught / "ledger.jsonl").read_text()
