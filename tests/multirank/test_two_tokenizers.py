"""A fleet whose model types have a tokenizer each, under a method that shares within a type only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from heterotune.backbone.load import read_model
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.load import load_run
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.errors import ModelError
from heterotune.fleet.model_source import embedded_root
from heterotune.fleet.model_types import read_model_types
from heterotune.preflight import check

SHAPE = "hidden_size=16,intermediate_size=24,num_attention_heads=2,num_hidden_layers=1"
RUN = {
    "name": "two-tokenizers",
    "rounds": 2,
    "data": {"fields": {"text": "text"}, "max_tokens": 16, "partition": {"by": "iid"}},
    "local": {"steps": 2, "batch_size": 2},
    "strategy": "fedavg_lora",
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8},
    "backbone": {"ds_config": "none"},
}


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    """A run file of the embedded tokenizer's model and of one with two tokens more."""
    model = tmp_path / "other"
    random = FleetEntry(name="m", model=f"random:{SHAPE},vocab_size=2050", clients=1)
    read_model(read_model_types((random,))[0], "fp32").save_pretrained(model)
    shutil.copy(embedded_root() / "tokenizer_config.json", model)
    backend = load_tokenizer("embedded:small").backend
    backend.add_tokens(["the value", "is self"])
    backend.save(str(model / "tokenizer.json"))
    fleet = [
        {"name": "a", "model": f"random:{SHAPE},vocab_size=2048", "clients": 3},
        {"name": "b", "model": str(model), "clients": 2},
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"the value {i} is self.{i} " * 4}) + "\n" for i in range(30)))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "fleet": fleet, "data": {**RUN["data"], "source": str(corpus)}}))
    return path


def test_every_type_trains_and_is_scored_in_its_own_tokens(run_mpi, run_yaml, tmp_path):
    found = []
    for num_ranks in (1, 2):
        out = tmp_path / f"run-{num_ranks}"
        out.mkdir()
        result = run_mpi(["-m", "heterotune.worker", run_yaml, "--run-dir", out], num_ranks=num_ranks)
        assert result.returncode == 0, result.output
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [metric for metric in metrics if metric["name"] == "loss/eval"]
        found.append((json.loads((out / "summary.json").read_text())["global_adapter_sha256"], losses))
    assert found[0] == found[1]
    assert {metric["model_type"] for metric in found[0][1] if "model_type" in metric} == {"a", "b"}
    checked = check(load_run(run_yaml))
    highest = [int(view.heldout.input_ids.max()) for view in checked.data_of_type]
    assert highest[0] < 2048 <= highest[1]
    assert [int(rows.input_ids.max()) >= 2048 for rows in checked.data.train] == [False] * 3 + [True] * 2


def test_a_shared_head_refuses_it_before_anything_starts(run_yaml):
    run = yaml.safe_load(run_yaml.read_text())
    other = run_yaml.with_name("other.yaml")
    narrow = {"head_rank": 4, "head_basis": 8}
    run["fleet"][0]["model"] = run["fleet"][0]["model"].replace("2048", "2050")  # one vocabulary's size, two meanings
    other.write_text(yaml.safe_dump({**run, "strategy": "heterotune", "heterotune": narrow}))
    with pytest.raises(ModelError, match=r"strategy heterotune shares fleet/.* tokenizers differ \(a \w{8}, b \w{8}\)"):
        check(load_run(other))
    with pytest.raises(ModelError, match=r"strategy heterotune shares the vocabulary of head.S between"):
        check(load_run(other, ["heterotune.head_scope=type"]))
