"""A local job: its output goes to the log, its status to the watcher, and it ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from heterotune.config.load import parse_run
from heterotune.launching import local
from heterotune.launching.local import end_job, failure_text, job_environment, run_command
from heterotune.run_folder import RunFolder

SOURCE_ROOT = Path(__file__).parents[3] / "engine"
LIMIT_SECONDS = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    fleet = [{"name": "small", "model": "embedded:small", "clients": 2}]
    run = {"name": "tiny", "rounds": 2, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
    return RunFolder.create(parse_run(run), tmp_path, "tiny")


def run_program(program: str, folder: RunFolder, on_status=lambda status: None) -> int:
    environ = dict(os.environ, PYTHONPATH=str(SOURCE_ROOT), RUN=str(folder.path))
    return run_command([sys.executable, "-c", program], environ, folder, on_status)


def test_output_goes_to_the_log_and_the_status_to_the_watcher(folder: RunFolder) -> None:
    program = (
        "import os; from heterotune.run_folder import RunFolder\n"
        "RunFolder.open(os.environ['RUN']).status({'state': 'done', 'round': 2}); print('from the rank')"
    )
    seen: list[dict] = []
    assert run_program(program, folder, seen.append) == 0
    assert seen[-1] == {"state": "done", "round": 2}
    assert folder.launcher_log.read_text() == "from the rank\n"


def test_exit_codes(folder: RunFolder) -> None:
    assert run_program("raise SystemExit(7)", folder) == 7
    assert run_program("import os; os.kill(os.getpid(), 9)", folder) == 137


def test_what_a_signal_ended_is_named_because_the_dead_cannot(folder: RunFolder) -> None:
    assert run_program("import os; os.kill(os.getpid(), 9)", folder) == 137
    told = "MPI rank 0 was killed by signal 9 (SIGKILL). If nobody sent it, the system may have run out of memory."
    assert failure_text(folder) == told
    assert folder.read_failure() == {"mpi_rank": 0, "text": told}


def test_a_rank_that_mpirun_names_and_a_killed_mpirun_are_the_cause(folder: RunFolder) -> None:
    said = "prterun noticed that process rank 1 with PID 12 on node vm exited on signal 11 (Segmentation fault)."
    folder.launcher_log.write_text(said)
    local._record_signals(folder, "mpirun", 139)
    assert failure_text(folder) == "MPI rank 1 was killed by signal 11 (SIGSEGV). It was process 12 on vm."
    local._record_signals(folder, "mpirun", -9)
    assert failure_text(folder).startswith("mpirun, which started the ranks, was killed by signal 9 (SIGKILL).")


def test_a_full_disk_on_which_nobody_could_write_is_named(folder: RunFolder, monkeypatch) -> None:
    full = SimpleNamespace(f_bavail=1, f_frsize=4096)
    monkeypatch.setattr(local.os, "statvfs", lambda path: full)
    assert failure_text(folder) == (
        f"{folder.path}: No space left on device. Free space there, then go on with --resume."
    )


def test_a_recorded_failure_is_shown_with_its_rank(folder: RunFolder) -> None:
    folder.record_failure(3, "Traceback ...\nValueError: loss is nan")
    assert failure_text(folder) == "MPI rank 3 failed:\nTraceback ...\nValueError: loss is nan"


def test_without_a_record_the_end_of_the_log_is_shown(folder: RunFolder) -> None:
    run_program("import sys; print('\\n'.join(map(str, range(100))), flush=True); sys.exit('out of slots')", folder)
    text = failure_text(folder)
    assert "The ranks ended without a traceback" in text
    assert text.endswith("out of slots")
    assert "\n10\n" not in text


def test_an_interrupt_ends_the_job(folder: RunFolder) -> None:
    program = (
        "import os, time; from heterotune.run_folder import RunFolder\n"
        "RunFolder.open(os.environ['RUN']).status({'state': 'running', 'pid': os.getpid()}); time.sleep(600)"
    )
    pids: list[int] = []

    def interrupt(status: dict) -> None:
        pids.append(status["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program(program, folder, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_sigterm_ends_the_job_too(folder: RunFolder) -> None:
    program = (
        "import os, time; from heterotune.run_folder import RunFolder\n"
        "RunFolder.open(os.environ['RUN']).status({'state': 'running', 'pid': os.getpid()}); time.sleep(600)"
    )
    pids: list[int] = []

    def terminate(status: dict) -> None:
        pids.append(status["pid"])
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        run_program(program, folder, terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_job_that_ignores_sigterm_is_killed(monkeypatch) -> None:
    monkeypatch.setattr("heterotune.launching.local._END_SECONDS", 0.3)
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    job = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stdout is not None and job.stdout.readline() == "deaf\n"
    ender = threading.Thread(target=end_job, args=(job,))
    ender.start()
    ender.join(LIMIT_SECONDS)
    assert job.wait(LIMIT_SECONDS) == -signal.SIGKILL
    end_job(job)


def test_a_new_job_does_not_inherit_the_traces_of_another_launcher() -> None:
    environ = {
        "OMPI_COMM_WORLD_SIZE": "4",
        "PMIX_RANK": "1",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "OMPI_MCA_btl": "self,tcp",
        "HOME": "/home/x",
        "RANKING": "kept",
    }
    kept = {"OMPI_MCA_btl": "self,tcp", "HOME": "/home/x", "RANKING": "kept", "HETEROTUNE_NUM_RANKS": "2"}
    assert job_environment(environ, 2) == kept
