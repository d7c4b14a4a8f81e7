"""The doctor: finds what is missing and says what to do; the check before a run stops what could not work."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from heterotune import doctor
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import LaunchError


def config(ds_config: str) -> RunConfig:
    fleet = [{"name": "small", "model": "embedded:small", "clients": 2}]
    run = {"name": "t", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
    return parse_run(run | {"backbone": {"ds_config": ds_config}})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return tmp_path


def leave_lock(folder: Path, op: str) -> Path:
    (folder / op).mkdir()
    (folder / op / "lock").touch()
    return folder / op / "lock"


def test_python_and_packages() -> None:
    assert doctor.check_python((3, 11)).ok
    assert not doctor.check_python((3, 10)).ok
    assert doctor.check_package("torch").ok
    missing = doctor.check_package("no-such-package-anywhere")
    assert not missing.ok and missing.detail == "not installed" and "pip install" in missing.fix


def test_two_mpi_ranks_find_each_other() -> None:
    check = doctor.check_mpi()
    assert check.ok, check.detail


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("print(1)", "mpirun: 1"),
        ("raise SystemExit('no transport')", "mpirun: "),
    ],
)
def test_mpi_that_does_not_work(program: str, detail: str, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_MPI_PROGRAM", program)
    check = doctor.check_mpi()
    assert not check.ok and detail in check.detail and "pip install" in check.fix


def test_mpi_that_hangs_is_ended_with_its_ranks(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_MPI_PROGRAM", f"import time; mark = {str(tmp_path)!r}; time.sleep(600)")
    monkeypatch.setattr(doctor, "_MPI_LIMIT_SECONDS", 2.0)
    assert "did not end in 2 s" in doctor.check_mpi().detail
    left = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])]
    assert left == []


def test_no_mpirun_at_all(monkeypatch) -> None:
    def nowhere() -> Path:
        raise LaunchError("No mpirun")

    monkeypatch.setattr(doctor, "find_mpirun", nowhere)
    assert not doctor.check_mpi().ok
    with pytest.raises(LaunchError, match="No mpirun"):
        doctor.prepare_run(config("zero3_cpu"), 2, print)
    doctor.prepare_run(config("zero3_cpu"), 1, print)


def test_a_stale_lock_is_found_and_fixed(folder: Path) -> None:
    lock = leave_lock(folder, "async_io")
    found = doctor.check_locks(fix=False)
    assert not found.ok and str(lock) in found.detail and found.fix == "heterotune doctor --fix"
    assert doctor.check_locks(fix=True).detail == "cleared the stale lock of async_io"
    assert not lock.exists()
    assert doctor.check_locks(fix=False).ok


def test_a_run_that_needs_no_op_does_not_mind_a_lock(folder: Path) -> None:
    leave_lock(folder, "deepspeed_shm_comm")
    doctor.prepare_run(config("zero3_cpu"), 2, print)
    doctor.prepare_run(config("none"), 2, print)


def test_a_run_that_needs_the_op_stops_at_its_stale_lock(folder: Path) -> None:
    leave_lock(folder, "pin_memory")
    with pytest.raises(LaunchError, match="lock of a build of pin_memory that died"):
        doctor.prepare_run(config("zero3_nvme"), 2, print)
    (folder / "async_io").mkdir()
    (folder / "async_io" / "async_io.so").touch()  # built: a real build takes minutes
    checks = doctor.check_ops("zero3_nvme", print)
    assert not checks[0].ok and "pin_memory" in checks[0].detail


def test_examine_reports_everything(folder: Path) -> None:
    checks = {check.name: check for check in doctor.examine("zero3_cpu", fix=False, say=print)}
    assert {"Python", "torch", "mpi4py", "MPI", "C++ compiler", "GPU", "build locks", "DeepSpeed ops"} <= checks.keys()
    assert checks["DeepSpeed ops"].detail == "zero3_cpu needs none"


def test_a_machine_without_a_compiler_can_run(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    check = doctor.check_compiler()
    assert check.ok and "none" in check.detail
