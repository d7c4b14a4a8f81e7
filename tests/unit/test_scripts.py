"""The scripts of the two commands: what they say without a Python, and that an empty test run is no pass."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bash(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("bash") or "/bin/bash", *(str(argument) for argument in arguments)]
    return subprocess.run(command, env=environ or None, capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the scripts, without an environment."""
    for name in (
        "launch/setup_venv.sh",
        "launch/demo.sh",
        "tests/run.sh",
        "tests/debian_packages.sh",
        ".ci/run",
        "pyproject.toml",
        "constraints.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def folder_of_tools(path: Path, *names: str) -> Path:
    """A folder for PATH with a few of this system's tools."""
    path.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (path / name).symlink_to(found)
    return path


@pytest.mark.parametrize("script", ["launch/demo.sh", "tests/run.sh"])
def test_without_python_they_say_which_one_is_needed(checkout: Path, script: str) -> None:
    tools = folder_of_tools(checkout / "bin", "dirname", "cat", "cksum")
    done = bash(checkout / script, PATH=str(tools))
    assert done.returncode != 0
    assert "heterotune needs Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_nothing_is_installed_when_nothing_changed(checkout: Path) -> None:
    tools = folder_of_tools(checkout / "bin", "dirname", "cat", "cksum")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "ran $*"\n')
    python.chmod(0o755)
    stamp = bash("-c", f"source {checkout}/launch/setup_venv.sh 2>/dev/null; wanted_stamp", PATH=str(tools)).stdout
    (checkout / ".venv" / "heterotune-stamp").write_text(stamp)
    assert bash(checkout / "tests" / "run.sh", "-k", "cmga", PATH=str(tools)).stdout == "ran -m pytest -k cmga\n"
    parts = bash(checkout / "tests" / "run.sh", PATH=str(tools)).stdout.split()
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {word.removeprefix("tests/") for word in parts if word.startswith("tests/")} == folders
    with (checkout / "constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    assert bash(checkout / "tests" / "run.sh", PATH=str(tools)).returncode != 0


def test_the_demo_needs_the_engine_alone(checkout: Path) -> None:
    tools = folder_of_tools(checkout / "bin", "dirname", "cat", "cksum")
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("python", "heterotune"):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (commands / name).chmod(0o755)
    stamp = bash("-c", f"source {checkout}/launch/setup_venv.sh 2>/dev/null; wanted_stamp", PATH=str(tools)).stdout
    (checkout / ".venv" / "heterotune-stamp-engine").write_text(stamp)
    assert bash(checkout / "launch" / "demo.sh", PATH=str(tools)).stdout.startswith("heterotune run launch/runs/demo")
    assert bash(checkout / "tests" / "run.sh", PATH=str(tools)).returncode != 0  # its packages are still to come
    (checkout / ".venv" / "heterotune-stamp-engine").rename(checkout / ".venv" / "heterotune-stamp")
    assert bash(checkout / "launch" / "demo.sh", PATH=str(tools)).returncode == 0


@pytest.mark.parametrize("fails", ["tests/unit", "tests/cluster"])
def test_a_failure_in_either_part_is_a_failure(checkout: Path, fails: str) -> None:
    (checkout / "launch" / "setup_venv.sh").write_text(f'repo_root={checkout}\nVENV_BIN="$repo_root"\n')
    (checkout / "tests" / "debian_packages.sh").write_text("")
    python = checkout / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *{fails}*) exit 3 ;; esac\n')
    python.chmod(0o755)
    assert bash(checkout / "tests" / "run.sh", PATH="/usr/bin:/bin").returncode == 3


@pytest.mark.parametrize(("pytest_code", "code"), [(0, 0), (1, 1), (5, 1)])
def test_no_tests_collected_is_a_failure(checkout: Path, pytest_code: int, code: int) -> None:
    (checkout / "tests" / "run.sh").write_text(f"exit {pytest_code}\n")
    assert bash(checkout / ".ci" / "run").returncode == code
