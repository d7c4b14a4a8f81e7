"""A run's own profile: peaks are explained, and memory that a rank keeps round after round is told."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from heterotune.cli import app

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048,num_hidden_layers=1"
RUN = {
    "name": "leaking",
    "rounds": 9,
    "fleet": [{"name": "a", "model": MODEL, "clients": 2}],
    "data": {"fields": {"text": "text"}, "max_tokens": 16, "partition": {"by": "iid"}},
    "local": {"steps": 1, "batch_size": 2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
    "chunk": {"clients": 1},
    "evaluate": {"max_rows": 2},
    "backbone": {"ds_config": "none"},
}


def test_a_rank_that_keeps_memory_is_told_in_log_summary_and_table(run_mpi, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"def f{n}(x):\n    return x + {n}\n" * 3}) + "\n" for n in range(16))
    )
    run_file, out = tmp_path / "run.yaml", tmp_path / "out"
    run_file.write_text(yaml.safe_dump(RUN | {"data": RUN["data"] | {"source": str(corpus)}}))
    out.mkdir()
    case = Path(__file__).parent / "cases" / "leaking_rank.py"
    result = run_mpi([case, run_file, "--run-dir", out], num_ranks=2, limit_seconds=120)
    assert result.returncode == 0, result.output

    leaks = json.loads((out / "summary.json").read_text())["leaks"]
    assert {leak["mpi_rank"] for leak in leaks} == {1}
    (train,) = [leak for leak in leaks if leak["phase"] == "train"]
    assert 6 * 2**20 < train["bytes_per_round"] < 10 * 2**20
    assert (
        "memory leak? The host_resident peak of MPI rank 1 in phase train" in (out / "logs/rank-0000.log").read_text()
    )

    shown = CliRunner().invoke(app, ["profile", str(out), "--trace"])
    assert shown.exit_code == 0, shown.output
    assert "MPI rank 1 in phase train grows by" in shown.output and "missing:" not in shown.output
    assert (out / "profile.png").read_bytes().startswith(b"\x89PNG")
    trace = json.loads((out / "trace.json").read_text())
    names = {(event["pid"], event["name"]) for event in trace["traceEvents"]}
    assert names >= {(rank, phase) for rank in (0, 1) for phase in ("train", "encode", "gather", "evaluate")}
    clients = [event["args"]["clients"] for event in trace["traceEvents"] if event["name"] == "train"]
    assert sorted(clients) == [[0], [1]]
