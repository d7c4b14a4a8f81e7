"""What tests share: a small run file, the command, what a run leaves, and a place for data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

RUN_YAML = """
name: tiny
rounds: 1
fleet: [{name: small, model: "embedded:small", clients: 4}]
data: {source: "embedded:stdlib"}
backbone: {ds_config: none}
"""


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    """A run file."""
    path = tmp_path / "run.yaml"
    path.write_text(RUN_YAML)
    return path


@pytest.fixture
def heterotune() -> Callable[..., Result]:
    """The command `heterotune`, in this process."""
    from heterotune.cli import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def summary() -> dict[str, Any]:
    """A run's summary.json, as short as can be."""
    return {
        "strategy": "heterotune",
        "rounds": 1,
        "seconds": 1.0,
        "seconds_per_round": 1.0,
        "startup_seconds": 1.0,
        "model_types": {},
        "peak_bytes": [],
        "global_adapter_sha256": "cd" * 32,
    }


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what the datasets library caches inside the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch) -> Path:
    """A cluster whose sbatch says 42, and no look at models, data and launchers; returns the folder of its commands."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/sh\necho 42\n")
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr("heterotune.preflight.check", lambda config: None)
    monkeypatch.setattr("heterotune.submit_command.choose_via", lambda request, python, warn, dry_run: "mpirun")
    return tools
