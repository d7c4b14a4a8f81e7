"""Every command of docs/export.md does what it says; lm_eval's is run by test_lm_eval.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from heterotune.checkpoint import Checkpoint, save_checkpoint
from heterotune.config.load import load_run
from heterotune.export.run_adapter import Choice, read_run_adapter

DOC = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^heterotune (export .+?)(?:  +#.*)?$", DOC, flags=re.MULTILINE)


@pytest.fixture
def run_dir(make_run, tmp_path) -> Path:
    """A run of the default strategy and fedavg_lora, with a checkpoint after round 1, which was the best."""
    fleet = [{"name": name, "model": f"embedded:{name}", "clients": 2} for name in ("small", "large")]
    run = make_run(fleet, compare_with=["fedavg_lora"], heterotune={"personal_rank": 2})
    other = make_run(fleet, strategy="fedavg_lora")
    (run.path / "compare").mkdir()
    (other.path).rename(run.path / "compare" / "fedavg_lora")
    tensors = {}
    for place, name in enumerate(("small", "large")):
        adapter = read_run_adapter(run.path, Choice(name))
        tensors |= {f"values/{spec.key}": adapter.values[spec.name] for spec in adapter.layout.travelling}
        tensors |= {f"frames/{place}/{key}": value.clone() for key, value in vars(adapter.frame).items()}
    facts = {"best": {"round": 1, "heldout_loss": 3.0}}
    save_checkpoint(run.path, Checkpoint(1, tensors, facts, run.path / "clients"), keep=1)
    return run.path


def test_the_page_has_commands():
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(run_dir, tmp_path, heterotune, command):
    words = [{"RUN_DIR": str(run_dir), "OUT": str(tmp_path / "out")}.get(word, word) for word in shlex.split(command)]
    done = heterotune(*words)
    assert done.exit_code == 0, done.output
    is_merged = "--merge" in words
    assert (tmp_path / "out" / "model.safetensors").is_file() == is_merged
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file() != is_merged
    assert ("fedavg_lora" if "fedavg_lora" in words else "heterotune") in (tmp_path / "out" / "README.md").read_text()


def test_the_run_file_of_the_page(tmp_path):
    """The snippet, with what every run needs beside it, is a valid run."""
    snippet = re.search(r"```yaml\n(.+?)```", DOC, flags=re.DOTALL)[1]
    path = tmp_path / "run.yaml"
    path.write_text(f"name: x\nrounds: 1\ndata: {{source: embedded:stdlib}}\n{snippet}")
    assert load_run(path).fleet[0].adapter == "path/to/lora"
    assert load_run(path).heterotune.adapter_rank == 8
