"""Real batch jobs on two Slurm nodes: the same digest as in one process, and clear words where ranks cannot meet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from heterotune.launching.launch_methods import launch_methods, listed_mpi_types

WORKER = ["-m", "mpi4py", "-m", "heterotune.worker"]
LIMIT_SECONDS = 120.0


def write_script(folder: Path, line: str) -> Path:
    """A batch script of one line, its output beside it."""
    script = folder / "job.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --output={folder}/job.out\n{line}\n")
    return script


@pytest.mark.parametrize("ranks_per_node", [1, 2])
def test_two_nodes_give_the_digest_of_one_process(
    slurm, small_run, job_variables, digest_of_run, tmp_path, ranks_per_node
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    line = f"mpirun --bind-to none {sys.executable} {' '.join(WORKER)} {small_run.path} --run-dir {out}"
    options = ["--nodes=2", f"--ntasks-per-node={ranks_per_node}"]
    job_id = slurm.submit(write_script(tmp_path, line), *options, environment=job_variables)
    job = slurm.wait(job_id, limit_seconds=LIMIT_SECONDS)
    output = (tmp_path / "job.out").read_text()
    assert job["JobState"] == "COMPLETED", output
    assert job["NodeList"] == "n[1-2]"
    assert digest_of_run(out) == small_run.digest
    environment = json.loads((out / "summary.json").read_text())["environment"]
    assert (environment["channel"], environment["num_ranks"]) == ("mpi", 2 * ranks_per_node)


def srun_worker(slurm, small_run, job_variables, tmp_path: Path, *options: str):
    """Run the worker directly under srun; returns the finished command."""
    out = tmp_path / "out"
    out.mkdir()
    command = ["srun", "--nodes=2", "--ntasks=2", *options, sys.executable, *WORKER, small_run.path, "--run-dir", out]
    done = slurm.run(*command, environment=job_variables)
    assert not (out / "summary.json").exists()
    return done


def test_srun_without_pmi_is_refused_and_the_flag_is_named(slurm, small_run, job_variables, tmp_path) -> None:
    done = srun_worker(slurm, small_run, job_variables, tmp_path, "--mpi=none")
    assert done.returncode != 0
    assert "Slurm says SLURM_STEP_NUM_TASKS=2, but MPI sees 1" in done.stderr
    assert "mpirun -n 2 python -m mpi4py -m heterotune.worker" in done.stderr
    assert "srun --mpi=pmix" in done.stderr


def test_srun_with_the_pmi_of_another_mpi_is_refused(slurm, small_run, job_variables, tmp_path) -> None:
    if "pmi2" not in listed_mpi_types(slurm.ask("srun", "--mpi=list")):
        pytest.skip("this Slurm has no pmi2")
    done = srun_worker(slurm, small_run, job_variables, tmp_path, "--mpi=pmi2")
    assert done.returncode != 0
    assert "srun --mpi=pmi2) says PMI_SIZE=2, but MPI sees 1" in done.stderr
    assert "mpirun -n 2 python -m mpi4py -m heterotune.worker" in done.stderr


def pmix_trouble(slurm) -> str | None:
    """Why `srun --mpi=pmix` cannot start here, or None."""
    probe = slurm.run("srun", "--mpi=pmix", "--test-only", "--ntasks=1", "true")
    return probe.stderr.splitlines()[0] if "Invalid MPI type" in probe.stderr else None


def test_srun_with_pmix_gives_the_digest_of_one_process(
    slurm, small_run, job_variables, digest_of_run, tmp_path
) -> None:
    """On one node: Slurm's PMIx plugin cannot serve two slurmd on one host ("task launch failed")."""
    trouble = pmix_trouble(slurm)
    if trouble is not None:
        pytest.skip(f"srun --mpi=pmix does not work here, which Open MPI 5 needs under srun ({trouble})")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, *WORKER, small_run.path, "--run-dir", out]
    done = slurm.run("srun", "--nodes=1", "--ntasks=2", "--mpi=pmix", *command, environment=job_variables)
    assert done.returncode == 0, done.stderr
    assert digest_of_run(out) == small_run.digest


def test_the_doctor_knows_what_works_here(slurm, monkeypatch) -> None:
    for name, value in slurm.variables().items():
        monkeypatch.setenv(name, value)
    methods = {method.name: method for method in launch_methods()}
    assert methods["mpirun"].works and methods["deepspeed"].works
    assert methods["srun"].works == (pmix_trouble(slurm) is None)


def test_the_deepspeed_launcher_over_plain_srun(
    slurm, small_run, run_command, job_variables, free_port, tmp_path
) -> None:
    """Its slurm runner calls plain srun and drops --module, so the module is given to Python as `-m`."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("n1 slots=1\nn2 slots=1\n")
    out = tmp_path / "out"
    out.mkdir()
    command = ["deepspeed", "--hostfile", hostfile, "--launcher", "slurm", "--no_ssh_check", "--master_addr"]
    command += ["127.0.0.1", "--master_port", str(free_port), "--", "-m", "heterotune.worker", small_run.path]
    environment = slurm.variables(job_variables)
    result = run_command([*command, "--run-dir", out], limit_seconds=LIMIT_SECONDS, environment=environment)
    assert result.returncode != 0
    assert "Slurm says SLURM_STEP_NUM_TASKS=2, but MPI sees 1" in result.output
    assert "--launcher_args=--mpi=pmix" in result.output
    assert not (out / "summary.json").exists()
