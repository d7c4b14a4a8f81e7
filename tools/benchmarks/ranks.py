"""Starts a benchmark's workers as the engine's launcher starts ranks, and lets them meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel
from heterotune.launching.environment import choose_channel_kind, read_environment
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix
from heterotune.launching.worker_environment import usable_cores, worker_variables

WATCHDOG_SECONDS = 600
REPOSITORY = Path(__file__).resolve().parents[2]


def run_worker(script: Path, arguments: Sequence[str], *, num_ranks: int = 1) -> Any:
    """Run a script on fresh processes, one thread each, and return the JSON value that its root rank wrote.

    Args:
        script: Gets `arguments` and then `--answer FILE`.
        arguments: What to do.
        num_ranks: More than one are started with mpirun.

    Raises:
        CalledProcessError: If it fails.
    """
    prefix: list[str] = []
    if num_ranks > 1:
        prefix = mpirun_prefix(find_mpirun(), num_ranks, num_cores=usable_cores(), as_root=os.geteuid() == 0)
    module = ["-m", "mpi4py"] if prefix else []
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [*prefix, sys.executable, *module, str(script), *arguments, "--answer", str(answer)]
        subprocess.run(command, check=True, env=_worker_environment(), stdout=sys.stderr)
        return json.loads(answer.read_text())


def open_ranks() -> Channel:
    """Return the channel between the workers. Every rank must call this."""

    def mpi_world_size() -> int:
        from heterotune.collective.mpi import mpi_world_size

        return mpi_world_size()

    kind = choose_channel_kind(read_environment(os.environ), mpi_world_size)
    return open_channel(kind, watchdog_seconds=WATCHDOG_SECONDS)


def join_zero3(channel: Channel) -> None:
    """Form the backbone group of all ranks on this machine. Every rank must call this."""
    from heterotune.backbone.zero3 import join_job
    from heterotune.collective.meeting_point import open_store

    join_job(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        device_index=channel.mpi_rank,
        store=open_store(channel, os.environ, watchdog_seconds=WATCHDOG_SECONDS),
        watchdog_seconds=WATCHDOG_SECONDS,
    )


def _worker_environment() -> dict[str, str]:
    environ: Mapping[str, str] = os.environ
    variables = worker_variables(environ, threads_per_rank=1, has_gpu=False)
    return {**environ, **variables, "PYTHONPATH": str(REPOSITORY / "engine"), "PYTHONWARNINGS": "ignore"}
