"""Which launcher, which channel: every launcher that was tried, and every way in which ranks miss one another."""

from __future__ import annotations

import pytest

from heterotune.errors import LaunchError
from heterotune.launching.environment import choose_channel_kind, read_environment

TORCH = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}
OPENMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPICH = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1"}
SLURM_STEP = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


def never() -> int:
    raise AssertionError("MPI must not be started")


def choose(environ: dict[str, str], mpi_world_size: int | None = None) -> str:
    return choose_channel_kind(read_environment(environ), never if mpi_world_size is None else lambda: mpi_world_size)


@pytest.mark.parametrize(
    ("environ", "launcher", "size", "mpi_rank", "local_rank"),
    [
        ({}, "single", 1, 0, 0),
        (TORCH, "torch", 2, 1, 1),
        (OPENMPI, "openmpi", 4, 3, 1),
        (MPICH, "mpich", 4, 3, 1),
        (SLURM_STEP, "slurm", 4, 3, 1),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "slurm", 2, 0, 0),
        (SLURM_STEP | OPENMPI, "openmpi", 4, 3, 1),
        (SLURM_STEP | TORCH, "torch", 2, 1, 1),
        ({"SLURM_NTASKS": "2", "HETEROTUNE_NUM_RANKS": "1"}, "single", 1, 0, 0),
    ],
)
def test_the_launcher_is_told_by_its_variables(environ, launcher, size, mpi_rank, local_rank) -> None:
    found = read_environment(environ)
    assert (found.launcher, found.declared_size, found.declared_rank, found.local_rank) == (
        launcher,
        size,
        mpi_rank,
        local_rank,
    )


@pytest.mark.parametrize(
    ("environ", "mpi_world_size", "kind"),
    [
        ({}, None, "single"),
        (TORCH, None, "torch"),
        (TORCH | {"RANK": "0", "WORLD_SIZE": "1"}, None, "single"),
        (OPENMPI, 4, "mpi"),
        (OPENMPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, 1, "mpi"),
        (OPENMPI | {"RANK": "3", "WORLD_SIZE": "4"}, 4, "mpi"),
        (MPICH, 4, "mpi"),
        (MPICH | TORCH | {"RANK": "3", "WORLD_SIZE": "4"}, 1, "torch"),
        (MPICH | TORCH | {"RANK": "3", "WORLD_SIZE": "4"}, 4, "mpi"),
        (SLURM_STEP, 4, "mpi"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, "single"),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "HETEROTUNE_NUM_RANKS": "1"}, None, "single"),
    ],
)
def test_the_channel_joins_all_declared_ranks(environ, mpi_world_size, kind) -> None:
    assert choose(environ, mpi_world_size) == kind


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (OPENMPI, r"mpirun says OMPI_COMM_WORLD_SIZE=4, but MPI sees 1: .*heterotune run RUN.yaml --ranks 4"),
        (MPICH, r"The launcher \(MPICH's mpirun.*PMI_SIZE=4, but MPI sees 1: .*mpirun -n 4 .*srun --mpi=pmix"),
        (MPICH | {"RANK": "3", "WORLD_SIZE": "4"}, "PMI_SIZE=4, but MPI sees 1"),
        (SLURM_STEP, r"Slurm says SLURM_STEP_NUM_TASKS=4, but MPI sees 1: .*mpirun -n 4 .*srun --mpi=pmix"),
        ({"SLURM_NTASKS": "2"}, r"Slurm says SLURM_NTASKS=2, but MPI sees 1"),
    ],
)
def test_worlds_of_size_one_are_refused_with_launcher_and_fix(environ, message) -> None:
    with pytest.raises(LaunchError, match=message):
        choose(environ, 1)


def test_torch_without_a_meeting_point() -> None:
    environ = {name: value for name, value in TORCH.items() if not name.startswith("MASTER")}
    with pytest.raises(LaunchError, match="MASTER_ADDR and MASTER_PORT not, so the ranks cannot find one another"):
        choose(environ)


def test_a_variable_that_is_no_number() -> None:
    with pytest.raises(LaunchError, match="OMPI_COMM_WORLD_SIZE='four' is not a whole number"):
        read_environment(OPENMPI | {"OMPI_COMM_WORLD_SIZE": "four"})


def test_a_rank_outside_the_job() -> None:
    with pytest.raises(LaunchError, match="RANK=2 is not a rank of WORLD_SIZE=2"):
        read_environment(TORCH | {"RANK": "2"})


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "2"), ("RANK", "0")])
def test_two_launchers_that_contradict_each_other(name: str, value: str) -> None:
    with pytest.raises(
        LaunchError, match=rf"{name}={value} contradicts OMPI_COMM_WORLD_SIZE=4 \(MPI rank 3\): two launch"
    ):
        read_environment(OPENMPI | {name: value})
