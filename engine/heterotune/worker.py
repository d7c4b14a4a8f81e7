"""What every MPI rank runs: `python -m heterotune.worker RUN.yaml`, under whichever launcher started it."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import psutil

from heterotune.collective.channel import ROOT, Channel
from heterotune.config.deepspeed_json import NO_DEEPSPEED
from heterotune.config.load import load_run
from heterotune.config.schema import RunConfig
from heterotune.errors import HeterotuneError
from heterotune.launching.environment import LaunchEnvironment, choose_channel_kind, read_environment
from heterotune.launching.worker_environment import gpu_is_usable, worker_variables
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank of a job. Returns the process's exit code."""
    options = _parse(arguments)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    environment: LaunchEnvironment | None = None
    folder: RunFolder | None = None
    mpi_rank = 0
    try:
        environment = read_environment(os.environ)
        mpi_rank = environment.declared_rank
        config = load_run(options.run_file, options.overrides)
        gpu = gpu_is_usable()
        os.environ |= worker_variables(os.environ, threads_per_rank=config.threads_per_rank, has_gpu=gpu)
        channel = _open_channel(environment, config)
        mpi_rank = channel.mpi_rank
        folder = _open_folder(options.run_dir, config, channel)
        if mpi_rank == ROOT and options.run_dir is None:
            terminal.write(f"run folder {folder.path}\n")
        _log_to(folder.log_path(mpi_rank))
        _run(config, channel, environment, folder)
        channel.close()
    except HeterotuneError as error:
        return _fail(terminal, environment, folder, mpi_rank, str(error), error.exit_code)
    except Exception:
        return _fail(terminal, environment, folder, mpi_rank, traceback.format_exc(), 1)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="heterotune.worker", description=__doc__)
    parser.add_argument("run_file", type=Path, help="the run's YAML file")
    parser.add_argument("--run-dir", type=Path, default=None, help="an existing, empty run folder; default: a new one")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser.parse_args(arguments)


def _open_channel(environment: LaunchEnvironment, config: RunConfig) -> Channel:
    from heterotune.collective.opening import open_channel

    def mpi_world_size() -> int:
        from heterotune.collective import mpi

        return mpi.mpi_world_size()

    kind = choose_channel_kind(environment, mpi_world_size)
    return open_channel(kind, watchdog_seconds=config.watchdog_seconds)


def _open_folder(run_dir: Path | None, config: RunConfig, channel: Channel) -> RunFolder:
    """Open the run folder that was given, or make one at the root and tell the others."""
    if run_dir is None:
        made = str(RunFolder.create(config, config.output, config.name).path) if channel.mpi_rank == ROOT else ""
        run_dir = Path(channel.broadcast_bytes(made.encode()).decode())
    return RunFolder.open(run_dir)


def _log_to(path: Path) -> None:
    """Send all output of this process to its log, that of libraries that write to the file descriptors included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a", buffering=1, encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("httpx", "datasets", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _run(config: RunConfig, channel: Channel, environment: LaunchEnvironment, folder: RunFolder) -> None:
    """Load the federation and run its strategies. Torch and DeepSpeed are imported here, after all cheap checks."""
    startup = Stopwatch()
    import torch

    from heterotune.preflight import check
    from heterotune.runner import run_strategies

    startup.add("imports", time.time() - psutil.Process().create_time())
    # A bank's gradients are views of one matrix on purpose.
    warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
    torch.set_num_threads(1 if config.threads_per_rank == "auto" else config.threads_per_rank)
    with startup.phase("models, tokenizer, data"):
        checked = check(config)
    with startup.phase("process group"):
        _join(config, channel, environment)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", environment.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    run_strategies(checked, channel, device, folder, startup)


def _join(config: RunConfig, channel: Channel, environment: LaunchEnvironment) -> None:
    """Form the process group that shards backbones. Every rank must call this."""
    if config.backbone.ds_config == NO_DEEPSPEED:
        return
    from heterotune.backbone.zero3 import join_backbone_group

    address, port = _meeting_point(channel)
    join_backbone_group(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        local_rank=environment.local_rank,
        master_address=address,
        master_port=port,
        watchdog_seconds=config.watchdog_seconds,
    )


def _meeting_point(channel: Channel) -> tuple[str, int]:
    """Return the root's address and a free port there, for torch.distributed. Every rank must call this."""
    mine = b""
    if channel.mpi_rank == ROOT:
        host = "127.0.0.1" if channel.num_ranks == 1 else os.environ.get("MASTER_ADDR") or socket.gethostname()
        with socket.socket() as probe:
            probe.bind(("", 0))
            mine = f"{host} {probe.getsockname()[1]}".encode()
    host, port = channel.broadcast_bytes(mine).decode().split()
    return host, int(port)


def _fail(
    terminal: TextIO,
    environment: LaunchEnvironment | None,
    folder: RunFolder | None,
    mpi_rank: int,
    text: str,
    exit_code: int,
) -> int:
    """Say what happened, keep it in the run folder, and end the whole job: other ranks would wait for this one."""
    terminal.write(f"MPI rank {mpi_rank} failed: {text}\n")
    terminal.flush()
    if folder is not None:
        print(text, file=sys.stderr, flush=True)
        folder.record_failure(mpi_rank, text)
    under_mpi = environment is not None and environment.launcher in ("openmpi", "mpich", "slurm")
    if under_mpi and environment.declared_size > 1:
        from heterotune.collective.mpi import abort

        abort(exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
