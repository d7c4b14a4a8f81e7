"""Which launcher started this process, and which channel its ranks can talk over.

A launcher that MPI does not understand makes every process its own MPI world of size 1, and each would run the whole
federation alone. So COMM_WORLD is never trusted without comparing it with what the launcher says in the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from heterotune.errors import LaunchError

Launcher = Literal["single", "openmpi", "mpich", "torch", "slurm"]
ChannelKind = Literal["single", "mpi", "torch"]

LOCAL_LAUNCH_VARIABLE = "HETEROTUNE_NUM_RANKS"
"""Set by `heterotune run`: it started one rank on purpose, whatever the batch job around it says."""

_MASTER_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
_TORCH_VARIABLES = ("RANK", "WORLD_SIZE", *_MASTER_VARIABLES)


@dataclass(frozen=True)
class LaunchEnvironment:
    """What the environment says about the job that this process belongs to.

    Attributes:
        launcher: Who started it: openmpi and mpich mean their mpirun, torch means torchrun or DeepSpeed's own launcher.
        declared_size: Ranks in the job.
        declared_rank: This process's rank.
        local_rank: Its rank on this machine; picks the GPU.
        source: The variable that said so, for messages.
        missing: Variables of torch.distributed that are not set.
        knows_torch: None is missing: DeepSpeed's launcher sets them beside those of the mpirun that it calls.
    """

    launcher: Launcher
    declared_size: int = 1
    declared_rank: int = 0
    local_rank: int = 0
    source: str = ""
    missing: tuple[str, ...] = ()
    knows_torch: bool = False


def read_environment(environ: Mapping[str, str]) -> LaunchEnvironment:
    """Tell the launcher from its variables; the innermost one wins.

    Raises:
        LaunchError: If a variable is not a number, a rank is outside the job, or two launchers contradict each other.
    """
    missing = tuple(name for name in _MASTER_VARIABLES if not environ.get(name))
    if "OMPI_COMM_WORLD_SIZE" in environ:
        local = ("OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK")
        found = _read(environ, "openmpi", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", local, missing)
    elif "PMI_SIZE" in environ:
        local = ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID", "LOCAL_RANK")
        found = _read(environ, "mpich", "PMI_SIZE", "PMI_RANK", local, missing)
    elif "WORLD_SIZE" in environ and "RANK" in environ:
        return _read(environ, "torch", "WORLD_SIZE", "RANK", ("LOCAL_RANK",), missing)
    elif environ.get(LOCAL_LAUNCH_VARIABLE) == "1":
        return LaunchEnvironment("single", source=LOCAL_LAUNCH_VARIABLE)
    elif "SLURM_STEP_NUM_TASKS" in environ or "SLURM_NTASKS" in environ:
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        return _read(environ, "slurm", size, "SLURM_PROCID", ("SLURM_LOCALID",), missing)
    else:
        return LaunchEnvironment("single")
    _refuse_contradiction(environ, found)
    return replace(found, knows_torch=all(environ.get(name) for name in _TORCH_VARIABLES))


def choose_channel_kind(environment: LaunchEnvironment, mpi_world_size: Callable[[], int]) -> ChannelKind:
    """Pick the channel on which all declared ranks can talk.

    Args:
        environment: From `read_environment`.
        mpi_world_size: Returns the size of COMM_WORLD. Called only where MPI may be there, because asking starts it.

    Returns:
        "single" for a job of one process, "mpi" if MPI sees every declared rank, "torch" for a launcher without MPI and
        where MPI does not see them but torch.distributed will.

    Raises:
        LaunchError: If the ranks cannot find one another; names the launcher and the fix.
    """
    if environment.launcher == "single" or (environment.launcher != "openmpi" and environment.declared_size == 1):
        return "single"
    if environment.launcher == "torch":
        return _torch_channel(environment)
    world_size = mpi_world_size()
    if world_size == environment.declared_size:
        return "mpi"
    if environment.knows_torch:
        return "torch"
    seen = f"{environment.source}={environment.declared_size}, but MPI sees {world_size}"
    raise LaunchError(_MISMATCH[environment.launcher].format(seen=seen, declared_size=environment.declared_size))


_BY_MPIRUN = (
    "the mpirun beside this Python: `mpirun -n {declared_size} python -m mpi4py -m heterotune.worker RUN.yaml`, also "
    "inside a batch script"
)
_BY_PMIX = (
    "with `srun --mpi=pmix` if `srun --mpi=list` names pmix and mpi4py uses Open MPI (with the deepspeed launcher: "
    "--launcher_args=--mpi=pmix)"
)
_MISMATCH = {
    "openmpi": "mpirun says {seen}: it is not the mpirun of the MPI library that mpi4py uses. "
    "Start with the mpirun beside this Python, as `heterotune run RUN.yaml --ranks {declared_size}` does.",
    "mpich": "The launcher (MPICH's mpirun, or srun --mpi=pmi2) says {seen}: mpi4py uses an MPI library of another "
    f"family, which this launcher's PMI does not reach. Start with {_BY_MPIRUN}, or {_BY_PMIX}.",
    "slurm": "Slurm says {seen}: every process would run the whole federation alone, because srun without --mpi gives "
    f"the ranks no PMI. Start with {_BY_MPIRUN}, or {_BY_PMIX}.",
}


def _torch_channel(environment: LaunchEnvironment) -> ChannelKind:
    if environment.missing:
        raise LaunchError(
            f"RANK and WORLD_SIZE={environment.declared_size} are set, but {' and '.join(environment.missing)} not, so "
            "the ranks cannot find one another. Start with torchrun or `deepspeed`, which set all four, or unset "
            "RANK and WORLD_SIZE."
        )
    return "torch"


def _read(
    environ: Mapping[str, str],
    launcher: Launcher,
    size_name: str,
    rank_name: str,
    local_names: tuple[str, ...],
    missing: tuple[str, ...],
) -> LaunchEnvironment:
    size, mpi_rank = _number(environ, size_name), _number(environ, rank_name, default=0)
    if not 0 <= mpi_rank < size:
        raise LaunchError(
            f"{rank_name}={mpi_rank} is not a rank of {size_name}={size}. Unset both, or start with a launcher."
        )
    local_name = next((name for name in local_names if name in environ), "")
    local_rank = _number(environ, local_name) if local_name else 0
    return LaunchEnvironment(launcher, size, mpi_rank, local_rank, size_name, missing)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"{name}={text!r} is not a whole number. Unset it, or start with a launcher.") from None


def _refuse_contradiction(environ: Mapping[str, str], found: LaunchEnvironment) -> None:
    """RANK and WORLD_SIZE beside an MPI launcher come from a second launcher, or from somebody's shell."""
    for name, mpi_value in (("WORLD_SIZE", found.declared_size), ("RANK", found.declared_rank)):
        if name in environ and _number(environ, name) != mpi_value:
            raise LaunchError(
                f"{name}={environ[name]} contradicts {found.source}={found.declared_size} "
                f"(MPI rank {found.declared_rank}): two launchers started this process. "
                f"Use one of them, or unset {name}."
            )
