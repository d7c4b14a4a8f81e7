"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# No deadline: other jobs may share the machine. No database: tests leave nothing behind in the checkout.
hypothesis.settings.register_profile("heterotune", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("heterotune")


def _load(path: Path) -> ModuleType:
    """Import a file of the tests by its path; test directories are not packages."""
    spec = importlib.util.spec_from_file_location(f"heterotune_tests_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_launch = _load(Path(__file__).parent / "multirank" / "launch.py")


@pytest.fixture(scope="session")
def run_mpi() -> Callable:
    """`launch.run_mpi`: a script on several ranks under mpirun, with a time limit."""
    return _launch.run_mpi


@pytest.fixture(scope="session")
def run_torch() -> Callable:
    """`launch.run_torch`: a script as several plain processes with the variables of torch.distributed."""
    return _launch.run_torch


@pytest.fixture
def load_file() -> Callable[[Path], ModuleType]:
    """Import a Python file by its path."""
    return _load
