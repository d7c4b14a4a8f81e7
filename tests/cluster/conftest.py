"""Fixtures of the cluster tests: a real Slurm, the small federation, and what one process makes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).parents[1]


def _load(path: Path) -> ModuleType:
    """Import a file of the tests by its path, once; test directories are not packages."""
    name = f"heterotune_tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_slurm_cluster = _load(Path(__file__).parent / "slurm_cluster.py")
_launch = _load(TESTS / "multirank" / "launch.py")
_whole_run = _load(TESTS / "multirank" / "test_whole_run.py")


@dataclass(frozen=True)
class SmallRun:
    """The small federation, and what its global adapters are in the end.

    Attributes:
        path: Its run file.
        digest: global_adapter_sha256 of the same run in one process.
    """

    path: Path
    digest: str


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A running `slurm_cluster.SlurmCluster`; the tests that need it are skipped, with the reason, where it cannot."""
    reason = _slurm_cluster.reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    with _slurm_cluster.running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def wait_until() -> Callable:
    """`slurm_cluster.wait_until`."""
    return _slurm_cluster.wait_until


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    return _slurm_cluster.free_ports(1)[0]


@pytest.fixture(scope="session")
def run_command() -> Callable:
    """`launch.run_command`: a launcher's command line, with a time limit and without another launcher's variables."""
    return _launch.run_command


@pytest.fixture(scope="session")
def job_variables() -> dict[str, str]:
    """What a job of the tests has in its environment: our interpreter first on PATH, CPU, one thread, root allowed."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(_launch.SOURCE_ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, run_command: Callable, job_variables: dict) -> SmallRun:
    """The small federation of tests/multirank on plain replicas, run once in one process."""
    folder = tmp_path_factory.mktemp("one-process")
    run_file = _whole_run.write_run(folder, "none")
    out = folder / "out"
    out.mkdir()
    command = [sys.executable, "-m", "heterotune.worker", run_file, "--run-dir", out]
    result = run_command(command, limit_seconds=120, environment=job_variables)
    assert result.returncode == 0, result.output
    return SmallRun(run_file, digest_of(out))


def digest_of(run_folder: Path) -> str:
    """Return the digest of a run's global adapters."""
    return json.loads((run_folder / "summary.json").read_text())["global_adapter_sha256"]


@pytest.fixture(scope="session")
def digest_of_run() -> Callable[[Path], str]:
    """`digest_of`."""
    return digest_of
