"""The run folder's files: complete under their final names, whole lines, first failure wins."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from heterotune.config.load import load_run, parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import LaunchError
from heterotune.run_folder import RunFolder


@pytest.fixture
def config() -> RunConfig:
    return parse_run(
        {
            "name": "tiny",
            "rounds": 2,
            "fleet": [{"name": "small", "model": "embedded:small", "clients": 2}],
            "data": {"source": "embedded:stdlib"},
        }
    )


@pytest.fixture
def folder(config: RunConfig, tmp_path: Path) -> RunFolder:
    return RunFolder.create(config, tmp_path / "runs", "tiny")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_create_writes_a_config_that_loads_back_equal(folder: RunFolder, config: RunConfig) -> None:
    assert load_run(folder.config_path) == config
    assert folder.path.name.startswith("tiny-")
    assert folder.log_folder.is_dir()


def test_two_runs_of_one_second_get_two_folders(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("heterotune.run_folder.time.strftime", lambda form: "20260101-000000")
    names = [RunFolder.create(config, tmp_path, "tiny").path.name for _ in range(3)]
    assert names == ["tiny-20260101-000000", "tiny-20260101-000000-2", "tiny-20260101-000000-3"]


def test_create_where_a_file_is_in_the_way(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(LaunchError, match="no run folder can be made there .* Choose another output"):
        RunFolder.create(config, tmp_path / "runs", "tiny")


def test_too_many_runs_in_one_second(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("heterotune.run_folder._MAX_SAME_SECOND", 1)
    with pytest.raises(LaunchError, match="runs of this name began in one second"):
        RunFolder.create(config, tmp_path, "tiny")


def test_open_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no such run folder"):
        RunFolder.open(tmp_path / "none")


def test_facts_stand_above_the_config_as_comments(folder: RunFolder, config: RunConfig) -> None:
    folder.write_config(config, {"heterotune": "0.1.0", "chunk.clients": "auto became 4"})
    assert folder.config_path.read_text().startswith("# heterotune: 0.1.0\n# chunk.clients: auto became 4\n")
    assert load_run(folder.config_path) == config
    assert isinstance(yaml.safe_load(folder.config_path.read_text()), dict)


def test_jsonl_files_grow_by_whole_lines(folder: RunFolder) -> None:
    folder.append_metrics([{"round": 1, "value": 2.5}, {"round": 1, "value": float("nan")}])
    folder.append_metrics([])
    folder.append_metrics([{"round": 2, "value": float("inf")}])
    folder.append_ledger([{"round": 1, "bytes": 4128}])
    folder.append_memory([{"round": 1, "peak_bytes": 7}])
    assert lines(folder.path / "metrics.jsonl") == [
        {"round": 1, "value": 2.5},
        {"round": 1, "value": None},
        {"round": 2, "value": None},
    ]
    assert lines(folder.path / "ledger.jsonl") == [{"round": 1, "bytes": 4128}]
    assert lines(folder.path / "memory.jsonl") == [{"round": 1, "peak_bytes": 7}]


def test_a_failed_write_leaves_the_old_file(folder: RunFolder) -> None:
    folder.write_summary({"rounds": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        folder.write_summary({"rounds": object()})
    assert folder.read_summary() == {"rounds": 1}


def test_a_crash_before_the_rename_leaves_nothing_under_the_final_name(folder: RunFolder, monkeypatch) -> None:
    def crash(source: str, target: str) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        folder.write_summary({"rounds": 1})
    assert not (folder.path / "summary.json").exists()


def test_no_summary(folder: RunFolder) -> None:
    with pytest.raises(LaunchError, match=r"the run left no summary\.json"):
        folder.read_summary()


def test_a_comparison_writes_its_own_files_and_the_runs_status(folder: RunFolder) -> None:
    inner = folder.subfolder("fedavg_lora")
    inner.append_metrics([{"round": 0}])
    inner.status({"state": "comparing"})
    assert (folder.path / "fedavg_lora" / "metrics.jsonl").is_file()
    assert folder.read_status() == {"state": "comparing"}


def test_status_before_the_first(folder: RunFolder) -> None:
    assert folder.read_status() is None
    assert folder.read_failure() is None


def _fail(path: str, mpi_rank: int) -> bool:
    return RunFolder.open(path).record_failure(mpi_rank, f"traceback of {mpi_rank}")


def test_the_first_failing_rank_wins(folder: RunFolder) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first = pool.starmap(_fail, [(str(folder.path), mpi_rank) for mpi_rank in range(6)])
    assert sum(first) == 1
    assert folder.read_failure() == {"mpi_rank": first.index(True), "text": f"traceback of {first.index(True)}"}
    assert [path.name for path in folder.path.glob(".failure*")] == []


def test_log_path_names_the_rank(folder: RunFolder) -> None:
    assert folder.log_path(3).name == "rank-0003.log"


def test_others_may_read_what_safetensors_writes(folder: RunFolder) -> None:
    with folder.writing("adapters/small.safetensors") as path:
        save_file({"w": torch.zeros(1)}, path)
    assert (folder.path / "adapters" / "small.safetensors").stat().st_mode == folder.config_path.stat().st_mode
