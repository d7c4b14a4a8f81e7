"""`heterotune profile` writes beside the run's files, and refuses what is no run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app

RECORD = {"round": 1, "mpi_rank": 0, "phase": "train", "kind": "host_resident", "peak_bytes": 2**20}
SPAN = {"name": "train", "category": "phase", "start_us": 5, "duration_us": 2, "facts": {}}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for folder in (tmp_path / "run", tmp_path / "run/compare/fedavg_lora"):
        folder.mkdir(parents=True)
        gpu = RECORD | {"kind": "device_allocated", "components": {"logits": 2**19}}
        (folder / "memory.jsonl").write_text(json.dumps(RECORD) + "\n" + json.dumps(gpu) + "\n")
        (folder / "spans.json").write_text(json.dumps({"round": 1, "ranks": [[SPAN]]}))
    (tmp_path / "run/config.yaml").write_text("rounds: 4\n")
    return tmp_path / "run"


def heterotune(*arguments: object):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_table_plots_and_traces_of_the_run_and_its_comparison(run_dir) -> None:
    result = heterotune(run_dir, "--trace")
    assert result.exit_code == 0, result.output
    assert "Rounds 2 to 4 are missing" in result.output and "fedavg_lora: resident peak" in result.output
    for folder in (run_dir, run_dir / "compare/fedavg_lora"):
        for name in ("profile.csv", "profile.png", "profile-gpu.png", "trace.json"):
            assert (folder / name).is_file() and f"wrote {folder / name}" in result.output


def test_json_has_every_peak_and_writes_nothing(run_dir) -> None:
    before = sorted(run_dir.rglob("*"))
    told = json.loads(heterotune(run_dir, "--json").stdout)
    assert list(told) == ["run", "fedavg_lora"]
    resident, gpu = told["run"]["peaks"]
    assert (resident["peak_bytes"], resident["mpi_rank"], resident["unexplained_bytes"]) == (2**20, 0, None)
    assert (gpu["kind"], gpu["components"], gpu["unexplained_bytes"]) == ("device_allocated", {"logits": 2**19}, 2**19)
    assert told["run"]["missing"] and sorted(run_dir.rglob("*")) == before


def test_without_trace_none_is_written(run_dir) -> None:
    assert heterotune(run_dir).exit_code == 0
    assert not (run_dir / "trace.json").exists()


def test_a_run_that_has_measured_nothing_is_shown_as_such(run_dir) -> None:
    (run_dir / "memory.jsonl").unlink()
    for file in (run_dir / "compare/fedavg_lora").iterdir():
        file.unlink()
    result = heterotune(run_dir)
    assert result.exit_code == 0 and "nothing was measured so far" in result.output
    (run_dir / "spans.json").unlink()
    result = heterotune(run_dir, "--trace")
    assert result.exit_code == 2 and "no round has ended" in result.output


def test_what_is_no_run_folder_ends_with_2(tmp_path) -> None:
    result = heterotune(tmp_path)
    assert result.exit_code == 2 and "is no run folder" in result.output


def test_where_nothing_can_be_written_it_says_so(run_dir) -> None:
    (run_dir / "profile.csv").mkdir()
    result = heterotune(run_dir)
    assert result.exit_code == 2 and f"Make {run_dir} writable, or profile a copy of it." in " ".join(
        result.output.split()
    )
