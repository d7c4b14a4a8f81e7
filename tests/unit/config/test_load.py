"""Files in, checked runs out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from heterotune.config.load import dump_run, load_run, parse_run
from heterotune.config.yaml_text import write_yaml
from heterotune.errors import ConfigError

RUNS = Path(__file__).resolve().parents[3] / "launch" / "runs"


@pytest.fixture
def run_file(run, tmp_path):
    """A valid run as a file."""
    path = tmp_path / "run.yaml"
    path.write_text(write_yaml(run), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_run_loads(path):
    config = load_run(path)
    assert config.name == path.stem


def test_the_demo_is_heterogeneous_in_width_and_depth():
    config = load_run(RUNS / "demo.yaml")
    assert config.num_clients >= 24 and config.rounds >= 8 and config.compare_with == ("fedavg_lora",)
    assert [entry.siblings_of for entry in config.fleet] == [None, None, "large", "large"]


def test_a_file_equals_its_mapping_and_overrides_apply_in_order(run, run_file):
    assert load_run(run_file) == parse_run(run)
    config = load_run(run_file, ["rounds=3", "rounds=4", "fleet.0.clients=1", "cohort.fraction=0.5", "local.epochs=1"])
    assert (config.rounds, config.fleet[0].clients, config.cohort.fraction) == (4, 1, 0.5)
    assert (config.local.steps, config.local.epochs) == (None, 1)


def test_dump_loads_back_equal(run, tmp_path):
    run |= {"output": "runs/here", "local": {"learning_rate": 1e-4, "clip_norm": None}, "cohort": {"clients": 5}}
    run["data"]["fields"] = {"prompt": "q", "response": "a"}
    run["heterotune"] = {"targets": ["q_proj", "v_proj"]}
    config = parse_run(run)
    path = tmp_path / "config.yaml"
    path.write_text(dump_run(config), encoding="utf-8")
    assert load_run(path) == config
    assert "max_clients: 32" in path.read_text(encoding="utf-8")


def test_problems_of_file_overrides_json_and_run_come_together(run_file, tmp_path):
    run_file.write_text(run_file.read_text(encoding="utf-8") + "rounds: 5\n", encoding="utf-8")
    ds_config = tmp_path / "mine.json"
    ds_config.write_text(json.dumps({"zero_optimization": {"stage": 2}, "zero": 1}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_run(run_file, ["fleet.7.clients=1", f"backbone.ds_config={ds_config}", "seed=x", "cohort.clients=99"])
    patterns = [
        r"run\.yaml, line \d+: the key 'rounds' is already given above",
        r"--set fleet\.7\.clients=1: 7 is not one",
        r"backbone\.ds_config: .*mine\.json: zero is not a key of DeepSpeed",
        r"backbone\.ds_config: .*mine\.json: zero_optimization\.stage = 2",
        r"seed = 'x' is not an integer",
        r"cohort\.clients = 99 is more than",
    ]
    assert len(caught.value.problems) == len(patterns)
    for pattern, problem in zip(patterns, caught.value.problems, strict=True):
        assert re.search(pattern, problem)


def test_a_repeated_key_alone_is_enough_to_refuse(run_file):
    run_file.write_text(run_file.read_text(encoding="utf-8") + "rounds: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 'rounds' is already given above"):
        load_run(run_file)


def test_the_ds_config_of_a_run(run_file):
    assert load_run(run_file, ["backbone.ds_config=none"]).backbone.ds_config == "none"
    with pytest.raises(
        ConfigError, match="^backbone.ds_config: zero3_cpuu is not in ds_configs. Did you mean zero3_cpu"
    ):
        load_run(run_file, ["backbone.ds_config=zero3_cpuu"])
    with pytest.raises(ConfigError, match=r"^backbone.ds_config = 3 is not text"):
        load_run(run_file, ["backbone.ds_config=3"])


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match=r"run.yaml: cannot be read \(No such file or directory\). Check the path."):
        load_run(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"run.yaml: not UTF-8 text \(byte 6\). Save it as UTF-8."):
        load_run(path)
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="run.yaml: the file is empty. Write a run, e.g. from a copy of launch/runs"):
        load_run(path)
    path.write_text("name: [x\nrounds: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="run.yaml, line 2, column 7: not readable as YAML"):
        load_run(path)
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"A run is a mapping of keys to values, not \['a'\]"):
        load_run(path)


def test_config_imports_nothing_heavy_and_warns_of_nothing():
    """A fresh interpreter in which every warning is an error; also keeps `heterotune --help` quick."""
    heavy = ("torch", "deepspeed", "transformers", "mpi4py")
    code = f"import sys, heterotune.config.load; sys.exit([name for name in {heavy} if name in sys.modules] or 0)"
    engine = Path(sys.modules["heterotune"].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={"PYTHONPATH": str(engine)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
