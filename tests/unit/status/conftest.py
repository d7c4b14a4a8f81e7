"""A run folder as a job leaves it, in the states that `heterotune status` tells apart."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from heterotune.config.load import load_run
from heterotune.run_folder import RunFolder
from heterotune.run_lock import this_process


@pytest.fixture
def folder(run_yaml: Path, tmp_path: Path) -> RunFolder:
    """A new run folder of three rounds and a comparison."""
    return RunFolder.create(load_run(run_yaml, ["rounds=3", "compare_with=[fedavg_lora]"]), tmp_path / "out", "tiny")


@pytest.fixture
def working() -> Mapping[str, Any]:
    """A process that works: this one."""
    return this_process({})


@pytest.fixture
def dead() -> Mapping[str, Any]:
    """A process of this machine that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(ended.pid).create_time()
    ended.wait()
    told = {"process_started": started, "job": "", "since": "2026-11-21 12:00:00"}
    return {"host": socket.gethostname(), "pid": ended.pid, **told}


@pytest.fixture
def elsewhere(working) -> Mapping[str, Any]:
    """A process on another machine."""
    return {**working, "host": "node7", "job": "42"}
