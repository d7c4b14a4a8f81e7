"""`run_command` with a real mpirun: a failing rank ends the job, and so does the end of the process that started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from heterotune.config.load import parse_run
from heterotune.launching.local import failure_text, job_environment, run_command
from heterotune.launching.mpirun import SESSION_VARIABLE, find_mpirun, mpirun_prefix, own_session_folder
from heterotune.run_folder import RunFolder

SOURCE_ROOT = Path(__file__).parents[2] / "engine"
LIMIT_SECONDS = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    fleet = [{"name": "small", "model": "embedded:small", "clients": 2}]
    run = {"name": "tiny", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
    return RunFolder.create(parse_run(run), tmp_path, "tiny")


def run_ranks(program: str, folder: RunFolder, on_status=lambda status: None) -> int:
    prefix = mpirun_prefix(find_mpirun(), 2, num_cores=1, as_root=os.geteuid() == 0)
    environ = job_environment(os.environ, 2) | {"PYTHONPATH": str(SOURCE_ROOT), "RUN": str(folder.path)}
    with own_session_folder(environ) as environ:
        return run_command([*prefix, sys.executable, "-m", "mpi4py", "-c", program], environ, folder, on_status)


@pytest.mark.timeout(60)
def test_a_rank_that_raises_ends_the_job_although_the_other_waits(folder: RunFolder) -> None:
    program = (
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 1: raise ValueError('client 3 has a loss of nan')\n"
        "MPI.COMM_WORLD.Barrier()"
    )
    assert run_ranks(program, folder) != 0
    assert "ValueError: client 3 has a loss of nan" in failure_text(folder)


@pytest.mark.timeout(60)
def test_an_interrupt_ends_every_rank(folder: RunFolder) -> None:
    program = (
        "import os, time; from mpi4py import MPI; from heterotune.run_folder import RunFolder\n"
        "pids = MPI.COMM_WORLD.gather(os.getpid())\n"
        "if pids: RunFolder.open(os.environ['RUN']).status({'pids': pids})\n"
        "time.sleep(600)"
    )
    ranks: list[psutil.Process] = []

    def interrupt(status: dict) -> None:
        ranks.extend(psutil.Process(pid) for pid in status["pids"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ranks(program, folder, interrupt)
    assert len(ranks) == 2
    psutil.wait_procs(ranks, timeout=LIMIT_SECONDS)
    # A rank that ended stays in the table until the system's first process has collected it.
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


@pytest.mark.timeout(60)
def test_what_a_killed_mpirun_left_under_the_same_process_id_is_in_nobodys_way(tmp_path: Path) -> None:
    leave = f"mkdir {tmp_path}/ompi.$$ && touch {tmp_path}/ompi.$$/pmix.{socket.gethostname()}.tool"
    prefix = mpirun_prefix(find_mpirun(), 1, num_cores=1, as_root=os.geteuid() == 0)
    command = ["sh", "-c", f'{leave} && exec "$@"', "sh", *prefix, "echo", "started"]  # exec keeps the process id
    environ = job_environment(os.environ, 1) | {"TMPDIR": str(tmp_path)}
    beside = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "PMIx server's listener thread failed to start" in beside.stderr
    with own_session_folder(environ) as apart:
        assert subprocess.run(command, env=apart, capture_output=True, text=True, check=False).stdout == "started\n"
        folder = Path(apart[SESSION_VARIABLE])
        assert folder.is_dir()
    assert not folder.exists()
