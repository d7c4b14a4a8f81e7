"""What every MPI rank runs: `python -m heterotune.worker RUN.yaml`, under whichever launcher started it."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

import psutil

from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.watchdog import watchdog
from heterotune.config.deepspeed_json import NO_DEEPSPEED
from heterotune.config.load import load_run
from heterotune.config.schema import RunConfig
from heterotune.errors import PREEMPTED, HeterotuneError, RunStopped
from heterotune.launching.environment import LaunchEnvironment, choose_channel_kind, read_environment
from heterotune.launching.placement import gpu_index, settle
from heterotune.launching.rank_processes import stopped_ranks, watch_parent
from heterotune.launching.stopping import StopRequest, forget_earlier_request
from heterotune.launching.worker_environment import gpu_is_usable, num_threads, worker_variables
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder
from heterotune.run_lock import locked, this_process

_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank of a job. Returns the process's exit code."""
    options = _parse(arguments)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    environment: LaunchEnvironment | None = None
    folder: RunFolder | None = None
    mpi_rank = 0
    stop = StopRequest()
    stop.listen()

    def tell_end(text: str) -> None:
        _tell(terminal, folder, mpi_rank, text)

    try:
        environment = read_environment(os.environ)
        mpi_rank = environment.declared_rank
        if _is_under_mpi(environment):
            watch_parent(lambda text: _leave(tell_end, text))
        config = load_run(options.run_file, options.overrides, begun=options.resume)
        gpu = gpu_is_usable()
        os.environ |= worker_variables(os.environ, threads_per_rank=config.threads_per_rank, has_gpu=gpu)
        channel = _open_channel(environment, config, tell_end)
        mpi_rank = channel.mpi_rank
        folder = _open_folder(options.run_dir, config, channel)
        if mpi_rank == ROOT and options.run_dir is None:
            terminal.write(f"run folder {folder.path}\n")
        with _root_holds(folder, channel, stop, resume=options.resume):
            _log_to(folder.log_path(mpi_rank), also=terminal if mpi_rank == ROOT else None)
            folder.write_presence(mpi_rank, {"mpi_rank": mpi_rank, **this_process()})
            environment = _settle(config, channel, environment)
            _run(config, channel, environment, folder, resume=options.resume, stop_wanted=stop.wanted)
        _end_in_time(environment, config.watchdog_seconds)
        channel.close()
    except RunStopped as error:
        return _stop(terminal, channel, str(error), partial(_end_in_time, environment, config.watchdog_seconds))
    except HeterotuneError as error:
        return _fail(terminal, environment, folder, mpi_rank, str(error), error.exit_code)
    except Exception as error:
        return _fail(terminal, environment, folder, mpi_rank, _disk_text(error, folder) or traceback.format_exc(), 1)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="heterotune.worker", description=__doc__)
    parser.add_argument("run_file", type=Path, help="the run's YAML file")
    parser.add_argument("--run-dir", type=Path, default=None, help="an existing, empty run folder; default: a new one")
    parser.add_argument("--resume", action="store_true", help="go on from what the run folder holds, if anything")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser.parse_args(arguments)


def _open_channel(environment: LaunchEnvironment, config: RunConfig, tell_end: Callable[[str], None]) -> Channel:
    """Meet the other ranks, and end the job, now and later, if they do not come in time."""
    from heterotune.collective.opening import open_channel

    def tell_stuck(what: str) -> None:
        others = " ".join(stopped_ranks()) or "Another rank is stuck or gone."
        tell_end(f"{what} was not done after {config.watchdog_seconds} seconds. {others}")

    def mpi_world_size() -> int:
        from heterotune.collective import mpi

        return mpi.mpi_world_size()

    what, limit_seconds = "the start of MPI", config.watchdog_seconds
    with watchdog(limit_seconds, what, lambda: _leave(tell_stuck, what)):  # one that leaves ends all: mpirun sees to it
        kind = choose_channel_kind(environment, mpi_world_size)
    return open_channel(kind, watchdog_seconds=limit_seconds, on_stuck=tell_stuck)


def _open_folder(run_dir: Path | None, config: RunConfig, channel: Channel) -> RunFolder:
    """Open the run folder that was given, or make one at the root and tell the others."""
    if run_dir is None:
        made = str(RunFolder.create(config, config.output, config.name).path) if channel.mpi_rank == ROOT else ""
        run_dir = Path(channel.broadcast_bytes(made.encode()).decode())
    return RunFolder.open(run_dir)


@contextmanager
def _root_holds(folder: RunFolder, channel: Channel, stop: StopRequest, *, resume: bool) -> Iterator[None]:
    """Lock the run folder at the root and make it ready for this attempt. Every rank must call this."""
    with ExitStack() as held:
        if channel.mpi_rank == ROOT:
            held.enter_context(locked(folder.path, os.environ))
            folder.begin_attempt(resume=resume)
            forget_earlier_request(folder.path)
        channel.barrier()
        stop.watch(folder.path)
        yield


def _settle(config: RunConfig, channel: Channel, environment: LaunchEnvironment) -> LaunchEnvironment:
    """Check that all hosts run the same versions, and keep to this rank's cores. Every rank must call this."""
    threads = num_threads(config.threads_per_rank)
    placement = settle(channel, environment.local_rank, bind=config.bind_cores, num_threads=threads)
    logging.getLogger(__name__).info("%s", placement)
    return replace(environment, local_rank=placement.local_rank)


def _log_to(path: Path, also: TextIO | None) -> None:
    """Send all output of this process to its log, that of libraries that write to the file descriptors included.

    What the engine itself has to say goes to another stream, too: the root's is what a user sees of a batch job.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a", buffering=1, encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("httpx", "datasets", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if also is not None:
        shown = logging.StreamHandler(also)
        shown.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logging.getLogger("heterotune").addHandler(shown)


def _run(
    config: RunConfig,
    channel: Channel,
    environment: LaunchEnvironment,
    folder: RunFolder,
    *,
    resume: bool,
    stop_wanted: Callable[[], bool],
) -> None:
    """Load the federation and run its strategies. Torch and DeepSpeed are imported here, after all cheap checks."""
    startup = Stopwatch()
    import torch

    from heterotune.data.overview import overview
    from heterotune.preflight import check
    from heterotune.profiling.process_memory import read_process_memory
    from heterotune.runner import run_strategies

    runtime = read_process_memory()
    startup.add("imports", time.time() - psutil.Process().create_time())
    # A bank's gradients are views of one matrix on purpose.
    warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
    torch.set_num_threads(num_threads(config.threads_per_rank))
    with startup.phase("models, tokenizer, data"):
        checked = check(config)
        if channel.mpi_rank == ROOT:
            folder.write_data(
                overview(checked.data, [entry.name for entry in config.fleet for _ in range(entry.clients)])
            )
    device_index = gpu_index(environment.local_rank, torch.cuda.device_count())
    with startup.phase("process group"):
        _join(config, channel, device_index)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", device_index)
        torch.cuda.set_device(device)
    run_strategies(checked, channel, device, folder, startup, resume=resume, stop_wanted=stop_wanted, runtime=runtime)


def _join(config: RunConfig, channel: Channel, device_index: int) -> None:
    """Form the process group that backbones are sharded over. Every rank must call this."""
    if config.backbone.ds_config == NO_DEEPSPEED:
        return
    import torch.distributed

    from heterotune.backbone.zero3 import join_job
    from heterotune.collective.meeting_point import open_store

    store = None
    if not torch.distributed.is_initialized():
        store = open_store(channel, os.environ, watchdog_seconds=config.watchdog_seconds)
    join_job(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        device_index=device_index,
        store=store,
        watchdog_seconds=config.watchdog_seconds,
    )


def _stop(terminal: TextIO, channel: Channel, text: str, limit_the_end: Callable[[], None]) -> int:
    """Say that the run stopped as it was asked to. Every rank comes here; none leaves before the last has saved."""
    channel.barrier()
    limit_the_end()
    if channel.mpi_rank == ROOT:
        terminal.write(f"{text}\n")
    channel.close()
    return PREEMPTED


def _fail(
    terminal: TextIO,
    environment: LaunchEnvironment | None,
    folder: RunFolder | None,
    mpi_rank: int,
    text: str,
    exit_code: int,
) -> int:
    """Say what happened, keep it in the run folder, and end the whole job: other ranks would wait for this one."""
    _tell(terminal, folder, mpi_rank, text)
    if environment is not None and _is_under_mpi(environment):
        from heterotune.collective.mpi import abort

        abort(exit_code)
    return exit_code


def _tell(terminal: TextIO, folder: RunFolder | None, mpi_rank: int, text: str) -> None:
    """Write what ends this rank to its log, the run folder and the terminal, as far as they can be written."""
    if folder is not None:
        with suppress(OSError):  # the folder's disk may be what failed
            print(text, file=sys.stderr, flush=True)
            folder.record_failure(mpi_rank, text)
    with suppress(OSError):  # the launcher that read it may be what is gone
        terminal.write(_cause(folder, mpi_rank, text))
        terminal.flush()


def _leave(tell: Callable[[str], None], text: str) -> None:
    """End this process from another thread, whatever the main one waits for."""
    try:
        tell(text)
    finally:
        os._exit(1)


def _end_in_time(environment: LaunchEnvironment, seconds: float) -> None:
    """Let the system end this process if leaving MPI takes too long: no thread of Python's lives that long."""
    if not _is_under_mpi(environment):
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_under_mpi(environment: LaunchEnvironment) -> bool:
    """Return whether a launcher of MPI started several ranks."""
    return environment.launcher in ("openmpi", "mpich", "slurm") and environment.declared_size > 1


def _disk_text(error: Exception, folder: RunFolder | None) -> str:
    """Say in one line that the run folder's disk is full or read-only; "" if that is not what happened."""
    if folder is None or not isinstance(error, OSError) or error.errno not in _DISK_ERRNOS:
        return ""
    return f"{folder.path}: {error.strerror}. Free space or make it writable, then go on with --resume."


def _cause(folder: RunFolder | None, mpi_rank: int, text: str) -> str:
    """Return what the terminal is told: last the cause of the rank that failed first; others only lost that one."""
    first = folder.read_failure() if folder is not None else None
    if first is None or first["mpi_rank"] == mpi_rank:
        return f"MPI rank {mpi_rank} failed: {text}\n"
    who = "" if first["mpi_rank"] is None else f"MPI rank {first['mpi_rank']} failed: "
    return f"MPI rank {mpi_rank} ended with it. {who}{first['text']}\n"


if __name__ == "__main__":
    sys.exit(main())
