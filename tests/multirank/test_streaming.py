"""Rows in mapped files: ranks that share them come to the bits of a run that has its rows in memory."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048,num_hidden_layers=1"


def write_run(folder: Path) -> Path:
    texts = [f"def f{number}(x):\n    return x * {number}\n" * 3 for number in range(40)]
    lines = [json.dumps({"owner": f"owner {number % 4}", "text": text}) + "\n" for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(lines))
    run = {
        "name": "streamed",
        "seed": 5,
        "rounds": 2,
        "fleet": [{"name": "a", "model": MODEL, "clients": 3}, {"name": "b", "model": f"{MODEL},seed=3", "clients": 1}],
        "data": {
            "source": "corpus.jsonl",
            "root": str(folder),
            "fields": {"text": "text"},
            "partition": {"by": "natural", "key": "owner"},
            "max_tokens": 16,
            "cache": str(folder / "cache"),
        },
        "local": {"steps": 2, "batch_size": 2},
        "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
        "chunk": {"clients": 2},
        "backbone": {"ds_config": "none"},
        "evaluate": {"max_rows": 8},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def test_two_ranks_on_mapped_rows_are_one_rank_in_memory(run_mpi, tmp_path):
    run_file, found = write_run(tmp_path), []
    for num_ranks, streaming in ((1, "false"), (2, "true")):
        out = tmp_path / f"run-{num_ranks}"
        out.mkdir()
        arguments = ["-m", "heterotune.worker", run_file, "--run-dir", out, "--set", f"data.streaming={streaming}"]
        result = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=240, environment={"DS_ACCELERATOR": "cpu"})
        assert result.returncode == 0, result.output
        data = json.loads((out / "data.json").read_text())
        found.append((json.loads((out / "summary.json").read_text())["global_adapter_sha256"], data))
    assert found[0] == found[1]
    assert [client["model_type"] for client in found[0][1]["clients"]] == ["a", "a", "a", "b"]
    assert len([path for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()]) == 1
