"""Run files and DeepSpeed JSONs that nobody should have written: exit code 2, soon, and nothing is started or made."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.load import load_run
from heterotune.errors import ConfigError
from heterotune.launching import local

LIMIT_SECONDS = 20.0  # for one file, on a machine with other work; the largest that is read takes 5 alone
LIMIT_KIB = 400 << 10
MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048,num_hidden_layers=1"
DS_CONFIG = {
    "zero_optimization": {
        "stage": 3,
        "offload_param": {"device": "cpu", "pin_memory": False},
        "stage3_param_persistence_threshold": 0,
    },
    "aio": {"block_size": 1048576, "queue_depth": 8},
    "dump_state": False,
}


@pytest.fixture
def mutations(load_file):
    return load_file(Path(__file__).with_name("mutations.py"))


@pytest.fixture
def started(monkeypatch) -> list[Path]:
    """Run folders whose ranks would have been started."""
    folders: list[Path] = []

    def note(folder, *arguments, **options) -> int:
        folders.append(folder.path)
        return 75

    monkeypatch.setattr(local, "run_local", note)
    return folders


@pytest.fixture
def run(tmp_path: Path) -> dict:
    lines = [{"owner": f"o{number % 4}", "text": f"def f{number}(x): return {number}\n" * 4} for number in range(24)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "name": "hostile",
        "seed": 1,
        "rounds": 1,
        "output": str(tmp_path / "runs"),
        "fleet": [
            {"name": "a", "model": MODEL, "clients": 2},
            {"name": "b", "model": MODEL, "clients": 2, "siblings_of": "a", "layers": [0]},
        ],
        "data": {
            "source": str(tmp_path / "corpus.jsonl"),
            "fields": {"text": "text"},
            "partition": {"by": "natural", "key": "owner"},
            "max_tokens": 16,
            "empty_client": "drop",
        },
        "cohort": {"fraction": 0.5},
        "local": {"steps": 1, "betas": [0.9, 0.99]},
        "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "targets": ["q_proj"]},
        "compare_with": ["fedavg_lora"],
        "backbone": {"ds_config": "none"},
        "chunk": {"clients": 2, "of_type": {"a": 1}},
        "threads_per_rank": 1,
    }


def try_it(path: Path, tmp_path: Path, started: list[Path]) -> None:
    """Whatever the file holds: refused with exit code 2 and without a run folder, or good enough to start."""
    before, began, num_started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), len(started)
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), (path.read_bytes()[:2000], result)
    assert time.monotonic() - began < LIMIT_SECONDS, path.read_bytes()[:2000]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LIMIT_KIB, path.read_bytes()[:2000]
    if len(started) == num_started:
        assert result.exit_code == 2 and result.output.strip(), (path.read_bytes()[:2000], result.output)
        assert len(result.output) < 200_000
        assert not (tmp_path / "runs").exists()
        return
    folder = started[-1]
    assert folder.name.startswith(tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"))
    for path in (folder / "logs", folder):
        for file in path.iterdir():
            file.unlink() if file.is_file() else file.rmdir()
    folder.rmdir()
    if folder.parent.is_relative_to(tmp_path):
        folder.parent.rmdir()


@pytest.mark.timeout(3600)
def test_mutated_run_files(run, tmp_path, monkeypatch, started, mutations):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    for number in range(round(7000 * mutations.SHARE)):
        draw = random.Random(number)
        path.write_bytes(mutations.as_json(mutations.mutated_tree(run, draw), draw))
        try_it(path, tmp_path, started)


@pytest.mark.parametrize("number", range(18))
def test_bombs(run, tmp_path, started, mutations, number):
    path = tmp_path / "run.yaml"
    assert len(mutations.BOMBS) == 18
    path.write_text(mutations.BOMBS[number] + json.dumps(run)[1:-1])
    try_it(path, tmp_path, started)
    path.write_text(mutations.BOMBS[number])
    try_it(path, tmp_path, started)
    assert started == []


@pytest.mark.timeout(3600)
def test_mutated_deepspeed_jsons(run, tmp_path, started, mutations):
    path, run_file = tmp_path / "mine.json", tmp_path / "run.yaml"
    run_file.write_text(json.dumps({**run, "backbone": {"ds_config": str(path)}}))
    for number in range(round(3000 * mutations.SHARE)):
        draw = random.Random(number)
        path.write_bytes(mutations.as_json(mutations.mutated_tree(DS_CONFIG, draw), draw))
        try:
            read_ds_config(str(path))
        except ConfigError as error:
            assert str(path) in str(error)
            with pytest.raises(ConfigError, match="backbone.ds_config: "):
                load_run(run_file)
    assert started == [] and not (tmp_path / "runs").exists()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def enormous(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


TRICKS = [fifo, endless, loop, enormous, Path.mkdir, not_text]


@pytest.mark.parametrize("trick", TRICKS)
def test_run_files_that_are_no_files(tmp_path, started, trick: Callable):
    trick(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="run.yaml: (cannot be read|not UTF-8 text)"):
        load_run(tmp_path / "run.yaml")


@pytest.mark.parametrize("trick", TRICKS)
def test_deepspeed_jsons_that_are_no_files(tmp_path, trick: Callable):
    trick(tmp_path / "ds.json")
    with pytest.raises(ConfigError, match="ds.json: (cannot be read|not readable as JSON)"):
        read_ds_config(str(tmp_path / "ds.json"))


def test_many_wrong_lines_are_not_all_told(run, tmp_path, started):
    (tmp_path / "run.yaml").write_text(json.dumps({**run, **{f"key{number}": 1 for number in range(20_000)}}))
    try_it(tmp_path / "run.yaml", tmp_path, started)
    (tmp_path / "ds.json").write_text(json.dumps({f"key{number}": 1 for number in range(50_000)}))
    with pytest.raises(ConfigError, match="the file has 50000 keys. DeepSpeed knows fewer."):
        read_ds_config(str(tmp_path / "ds.json"))


def test_a_fleet_that_no_memory_holds(run, tmp_path, started):
    run["fleet"][0]["clients"] = 2**31 - 1
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match="fleet has 2147483649 clients in all, more than 1000000. Lower"):
        load_run(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "../x", "/x", "a/b", "a\x00"])
@pytest.mark.parametrize("key", ["name", "fleet"])
def test_names_never_lead_out_of_a_folder(run, tmp_path, key, name):
    if key == "name":
        run["name"] = name
    else:
        run["fleet"][0]["name"] = name
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match="has characters that do not fit a file name"):
        load_run(tmp_path / "run.yaml")
