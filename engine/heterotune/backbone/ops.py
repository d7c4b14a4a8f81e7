"""DeepSpeed's compiled ops: which ones a run needs, building them once, and locks that a killed build left behind.

A run on CPU with gloo needs none. DeepSpeed's torch back end compiles `deepspeed_shm_comm` (about 40 s) whenever it
starts on CPU, but only its inference all-reduce ever calls it, and ZeRO-3 never does; `skip_unused_comm_op` makes
DeepSpeed 0.19 leave it out. There is no variable for that: DeepSpeed reads a table of ops that it may build, keeps one
copy of it, and says that edits persist. Parameters on NVMe do need ops: `pin_memory` and `async_io`.

torch guards each build with a file `lock`, created by the builder, which keeps it open while it builds, and removed at
the end. A builder that is killed leaves it behind, and every later process then waits for it for ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.errors import LaunchError

UNUSED_COMM_OP = "deepspeed_shm_comm"
NVME_OPS = ("pin_memory", "async_io")

_BUILDERS = {"pin_memory": "PinMemoryBuilder", "async_io": "AsyncIOBuilder"}
_LOCK_FILE = "lock"
_MESSAGE_SECONDS = 15.0
_SHARED_FILESYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "afs", "panfs", "fuse.sshfs")
_SHARED_QUIET_SECONDS = 1800.0
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class BuildLock:
    """A build's lock file.

    Attributes:
        op: The op's name.
        path: The file.
        age_seconds: Since the build folder last changed.
        holder_pids: Processes of this machine that have it open, i.e. are building.
        stale: Nobody builds: the file only makes others wait.
    """

    op: str
    path: Path
    age_seconds: float
    holder_pids: tuple[int, ...]
    stale: bool


def skip_unused_comm_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory op. Call before `deepspeed.init_distributed`.

    What is changed is DeepSpeed's own table, so this lasts as long as the process.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__[UNUSED_COMM_OP] = False


def required_ops(ds_config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ops that a frozen backbone under this DeepSpeed JSON makes DeepSpeed build, in build order."""
    offload = ds_config.get("zero_optimization", {}).get("offload_param") or {}
    return NVME_OPS if offload.get("device") == "nvme" else ()


def extensions_folder() -> Path:
    """Return the folder in which torch keeps compiled extensions for this Python and this torch."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen is not None:
        return Path(chosen)
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    if torch.version.hip is not None:
        device = f"rocm{torch.version.hip.replace('.', '')}"
    elif torch.version.cuda is not None:
        device = f"cu{torch.version.cuda.replace('.', '')}"
    else:
        device = "cpu"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{device}"


def is_built(op: str, folder: Path) -> bool:
    """Return whether an op's library is there."""
    return (folder / op / f"{op}.so").is_file()


def find_locks(folder: Path) -> tuple[BuildLock, ...]:
    """Return all build locks below an extensions folder, by op."""
    return tuple(_read_lock(path) for path in sorted(folder.glob(f"*/{_LOCK_FILE}")))


def clear_stale_locks(folder: Path) -> tuple[BuildLock, ...]:
    """Remove the locks of builds that died; return them."""
    cleared = tuple(lock for lock in find_locks(folder) if lock.stale)
    for lock in cleared:
        lock.path.unlink(missing_ok=True)
    return cleared


def stale_lock_message(lock: BuildLock) -> str:
    """Say what a stale lock means and the way out."""
    return (
        f"{lock.path} is the lock of a build of {lock.op} that died {lock.age_seconds:.0f} s ago; every run that needs "
        "the op would wait for it for ever. Run `heterotune doctor --fix`, or remove the file."
    )


def build_op(op: str, folder: Path, say: Callable[[str], None]) -> float:
    """Build one op in one process of its own, with a message now and then; nothing to do if it is built.

    Args:
        op: Its name.
        folder: From `extensions_folder`.
        say: Receives progress messages.

    Returns:
        Seconds that it took.

    Raises:
        LaunchError: If a stale lock is in the way, or the build fails; with the compiler's last words.
    """
    for lock in find_locks(folder):
        if lock.op == op and lock.stale:
            raise LaunchError(stale_lock_message(lock))
    if is_built(op, folder):
        return 0.0
    say(f"Building DeepSpeed's {op} (once on this machine, some minutes) ...")
    started = time.monotonic()
    command = [sys.executable, "-c", f"from heterotune.backbone.ops import load_op; load_op({op!r})"]
    builder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        output = _wait(builder, op, started, say)
    finally:
        builder.kill()
    if builder.returncode != 0 or not is_built(op, folder):
        raise LaunchError(
            f"DeepSpeed's {op} did not build (async_io needs a C++ compiler and libaio-dev). Its last words:\n"
            f"{output[-_TAIL_CHARACTERS:]}"
        )
    return time.monotonic() - started


def load_op(op: str) -> None:
    """Load an op into this process; DeepSpeed compiles it if need be. `build_op` runs this in a process of its own."""
    from deepspeed.ops import op_builder

    getattr(op_builder, _BUILDERS[op])().load(verbose=True)


def _wait(builder: subprocess.Popen, op: str, started: float, say: Callable[[str], None]) -> str:
    while True:
        try:
            return builder.communicate(timeout=_MESSAGE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            say(f"... still building {op}, {time.monotonic() - started:.0f} s")


def _read_lock(path: Path) -> BuildLock:
    newest = max((entry.stat().st_mtime for entry in path.parent.iterdir() if entry.is_file()), default=0.0)
    age_seconds = max(0.0, time.time() - newest)
    holders = _holders(path)
    # The builder may be on another machine if the folder is shared; only a long silence tells that it is dead.
    quiet = age_seconds > _SHARED_QUIET_SECONDS if _is_shared(path) else True
    return BuildLock(path.parent.name, path, age_seconds, holders, stale=not holders and quiet)


def _holders(path: Path) -> tuple[int, ...]:
    """Return the processes of this machine that have a file open, as far as this user may look."""
    wanted = str(path.resolve())
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_target(link) == wanted for link in (process / "fd").iterdir()):
                holders.append(int(process.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return tuple(sorted(holders))


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def _is_shared(path: Path) -> bool:
    """Return whether a path is on a filesystem that other machines also mount."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return False
    best = ("", "")
    for line in mounts.read_text().splitlines():
        _, point, kind, *_ = line.split()
        if path.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1] in _SHARED_FILESYSTEMS
