"""`heterotune data`: the table, the JSON and the plot of a run, without torch and without a run folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.data_command import MOST_CLIENTS, clients_table

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048,num_hidden_layers=1"


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "intents.txt").write_text("".join(f"intent {i % 4}\n" for i in range(80)))
    (tmp_path / "queries.txt").write_text("".join(f"please do {i} for me\n" for i in range(80)))
    run = {
        "name": "trial",
        "rounds": 1,
        "output": str(tmp_path / "runs"),
        "fleet": [{"name": "small", "model": MODEL, "clients": 2}, {"name": "large", "model": MODEL, "clients": 2}],
        "data": {
            "root": str(tmp_path),
            "source": {"lines": {"text": "queries.txt", "intent": "intents.txt"}},
            "fields": {"text": "text", "label": "intent"},
            "partition": {"by": "pathological", "labels_per_client": 1},
            "max_tokens": 32,
        },
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    return tmp_path / "run.yaml"


def _call(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_table_says_who_holds_what(run_file: Path) -> None:
    code, output = _call(run_file)
    assert code == 0
    assert "intent 0 18" in output and "large" in output
    assert "4 clients, 72 training rows" in output
    assert "jensen_shannon_nats 0.38" in output  # H(5/8, 1/8, 1/8, 1/8) - (0 + ln 4) / 2
    assert len([line for line in output.splitlines() if line.startswith("digest ")]) == 1
    assert not (run_file.parent / "runs").exists()


def test_json_is_what_the_run_folder_holds(run_file: Path) -> None:
    code, output = _call(run_file, "--json")
    found = json.loads(output)
    assert code == 0 and len(found["digest"]) == 64
    keys = {"client", "model_type", "train_rows", "heldout_rows", "train_tokens", "owners", "labels"}
    assert all(keys <= client.keys() for client in found["clients"])
    assert sum(client["train_rows"] + client["heldout_rows"] for client in found["clients"]) == 80
    assert json.loads(_call(run_file, "--json")[1])["digest"] == found["digest"]
    assert json.loads(_call(run_file, "--json", "--set", "seed=9")[1])["digest"] != found["digest"]


def test_a_plot_is_written_beside_the_table(run_file: Path) -> None:
    plot = run_file.parent / "who.svg"
    code, output = _call(run_file, "--plot", plot)
    assert code == 0 and f"plot {plot}" in output
    assert "<svg" in plot.read_text()


def test_problems_have_exit_code_2(run_file: Path) -> None:
    assert _call(run_file, "--plot", "who.bmp")[0] == 2
    code, output = _call(run_file, "--set", "data.partition.labels_per_client=9")
    assert code == 2 and "labels_per_client = 9 is more than the corpus's 4 labels" in output
    assert _call(run_file, "--set", "data.source=./gone.json")[0] == 2


def test_of_large_fleets_the_first_clients_are_shown() -> None:
    client = {
        "client": 0, "model_type": "m", "documents": 1, "train_rows": 1, "heldout_rows": 0, "train_tokens": 1,
        "cut_rows": 0, "length_quartiles": [], "owners": {"a": 1}, "labels": {},
    }  # fmt: skip
    table = clients_table([client] * 100, 100)
    assert table.row_count == MOST_CLIENTS and "64 of 100 clients; --json has all" in str(table.caption)
    assert "64 of 90000 clients; --json has 100 of them" in str(clients_table([client] * 100, 90_000).caption)


def test_it_needs_no_torch(run_file: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from heterotune.config.load import load_run\n"
        "from heterotune.data_command import data_overview\n"
        "data_overview(load_run(sys.argv[1])); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", script, run_file], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
