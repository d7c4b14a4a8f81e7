"""A run folder on a disk that is full, or becomes full: one clear line, and the run goes on later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "launch" / "runs" / "laptop.yaml"
SOURCE = Path(__file__).parents[2] / "engine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, less than two checkpoints of the laptop's run."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def heterotune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from heterotune.cli import main; main()", *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    (small_disk / "full").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    ended = heterotune("run", RUN, "--output", small_disk)
    assert ended.returncode == 2
    assert "no run folder can be made there (No space left on device). Choose another output." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_disk_that_becomes_full(small_disk: Path) -> None:
    ended = heterotune("run", RUN, "--output", small_disk)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr and "go on with --resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    (folder,) = small_disk.iterdir()
    assert heterotune("run", "--resume", folder).returncode == 0
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 3
