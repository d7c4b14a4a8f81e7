"""The systems that run the job: how each is started, with 2 threads in all, and what it made of the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from job import Outcome, load_outcome
from make_job import MODEL_TYPE, engine_lora
from safetensors.torch import load_file

from heterotune.config.load import load_run
from heterotune.launching.local import job_environment
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix
from heterotune.launching.worker_environment import usable_cores, worker_variables
from heterotune.run_folder import RunFolder

NUM_THREADS = 2
_SCRIPTS = Path(__file__).parent
_ENGINE = _SCRIPTS.parents[2] / "engine"
_TAIL_LINES = 30


class RunFailed(Exception):
    """A system did not do the job, or not this job."""


@dataclass(frozen=True)
class Setting:
    """Where the job is, and the peers.

    Attributes:
        folder: For logs, outcomes and run folders.
        run_file: The job as heterotune reads it.
        job_file: The job as the peers read it.
        peers_python: Interpreter of the peers' environment.
        timeout_seconds: Longest run.
    """

    folder: Path
    run_file: Path
    job_file: Path
    peers_python: Path
    timeout_seconds: int


def run_system(name: str, setting: Setting) -> Outcome:
    """Run one of `SYSTEMS` in processes of its own.

    Raises:
        RunFailed: If it fails or takes too long; shows the end of its log.
    """
    return SYSTEMS[name](setting)


def _peer(setting: Setting, script: str, argument: int, *, num_processes: int = 1, num_omp_threads: int) -> Outcome:
    """Run a peer's script; its arguments are job, outcome, and its threads or workers."""
    label = f"{Path(script).stem}-{num_processes}"
    outcome_file = setting.folder / f"{label}.npz"
    outcome_file.unlink(missing_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    launcher = torchrun if num_processes > 1 else []
    command = [setting.peers_python, *launcher, _SCRIPTS / script, setting.job_file, outcome_file, argument]
    environ = _without_engine(os.environ) | {
        "OMP_NUM_THREADS": str(num_omp_threads),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    _run(command, environ, setting.folder / f"{label}.log", setting.timeout_seconds)
    return load_outcome(outcome_file)


def _heterotune(setting: Setting, *, overrides: Sequence[str] = ()) -> Outcome:
    """Run the engine's worker on 2 MPI ranks with 1 thread each."""
    config = load_run(setting.run_file, overrides)
    run_folder = RunFolder.create(config, config.output, config.name)
    prefix = mpirun_prefix(find_mpirun(), NUM_THREADS, num_cores=usable_cores(), as_root=os.geteuid() == 0)
    arguments = [_SCRIPTS / "heterotune_job.py", run_folder.config_path, "--run-dir", run_folder.path]
    command = [*prefix, sys.executable, "-m", "mpi4py", *arguments]
    environ = job_environment(os.environ, NUM_THREADS)
    environ |= worker_variables(environ, threads_per_rank=config.threads_per_rank, has_gpu=False)
    environ["XDG_CACHE_HOME"] = str(setting.folder / "cache")  # so that an "auto" chunk is measured in this benchmark
    environ["PYTHONPATH"] = os.pathsep.join([str(_ENGINE), environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    _run(command, environ, run_folder.launcher_log, setting.timeout_seconds)
    round_ends = np.array(json.loads((run_folder.path / "round_ends.json").read_text()))
    lora = engine_lora(load_file(run_folder.path / "adapters" / f"{MODEL_TYPE}.safetensors"))
    picked = load_run(run_folder.config_path).chunk.of_type[MODEL_TYPE]
    return Outcome(round_ends, lora, note=f"{picked} clients per chunk")


def _run(command: Sequence[object], environ: Mapping[str, str], log_file: Path, timeout_seconds: int) -> None:
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_seconds)
            why = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, why = -1, f"not done after {timeout_seconds} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise RunFailed(f"{' '.join(map(str, command))}: {why}. The end of {log_file}:\n{tail}")


def _without_engine(environ: Mapping[str, str]) -> dict[str, str]:
    """The peers' environment has its own packages."""
    return {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


SYSTEMS = {
    "bare-loop": partial(_peer, script="bare_job.py", argument=2, num_omp_threads=2),
    "heterotune": _heterotune,
    "heterotune-chunk-1": partial(_heterotune, overrides=("chunk.clients=1",)),
    "pfl-1-process": partial(_peer, script="pfl_job.py", argument=2, num_omp_threads=2),
    "pfl-2-processes": partial(_peer, script="pfl_job.py", argument=1, num_processes=2, num_omp_threads=1),
    "flower": partial(_peer, script="flower_job.py", argument=2, num_omp_threads=1),  # 2 actors with 1 thread each
}
