"""From a run file and a request to jobs in Slurm's queue: checks, run folders, the script, sbatch."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heterotune.config.load import load_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError, LaunchError
from heterotune.launching.batch_request import (
    VIA_CHOICES,
    BatchRequest,
    array_seeds,
    request_problems,
    run_dir_problems,
)
from heterotune.launching.cluster_checks import cluster_problems
from heterotune.launching.launch_methods import MethodName, launch_methods
from heterotune.launching.slurm_cluster import submit_script
from heterotune.launching.slurm_script import SCRIPT_FILE, BatchScript, render
from heterotune.run_folder import RunFolder

JOB_FILE = "job-id"
"""In the run folder: Slurm's number of its job, of an array's task NUMBER_SEED; `heterotune status` asks with it."""

_UNNAMED_TIME = "YYYYmmdd-HHMMSS"


@dataclass(frozen=True)
class Submission:
    """A job in the queue.

    Attributes:
        job: Slurm's number of it.
        script: The batch script, in the run folder.
        folders: The run folder; of an array, that of every seed.
        log: What the job prints goes here; of an array, a pattern.
    """

    job: str
    script: Path
    folders: tuple[RunFolder, ...]
    log: str


def load_checked(
    run_yaml: Path, overrides: Sequence[str], request: BatchRequest, run_dir: Path | None, *, dry_run: bool
) -> RunConfig:
    """Read a run and check it together with the request.

    Args:
        run_yaml: The run file.
        overrides: As `--set` takes them.
        request: What is asked of the batch system.
        run_dir: Run folder that was named; None = none was.
        dry_run: Ask no cluster, and let the run folder be what it is: nothing will be made or submitted.

    Raises:
        ConfigError: With everything that is wrong with the run file, the request, and what the cluster has.
    """
    config, problems = None, []
    try:
        config = load_run(run_yaml, overrides)
    except ConfigError as error:
        problems += error.problems
    problems += request_problems(request, config, tuple(overrides))
    problems += [] if run_dir is None else run_dir_problems(run_dir.absolute(), to_be_made=not dry_run)
    problems += [] if dry_run else cluster_problems(request)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def new_run_dir(config: RunConfig) -> Path:
    """Return the absolute path of a new run folder in the run's output folder, named by the time.

    Raises:
        ConfigError: If no batch script can carry its path.
    """
    path = Path(config.output).absolute() / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if problems := run_dir_problems(path, to_be_made=True):
        raise ConfigError(problems)
    return path


def plan(config: RunConfig, request: BatchRequest, run_dir: Path, python: str, via: MethodName) -> BatchScript:
    """Describe the batch script of a run; nothing is made or asked.

    Args:
        config: The run.
        request: Checked.
        run_dir: Absolute run folder.
        python: Interpreter on the nodes.
        via: What starts the ranks.
    """
    return BatchScript(
        name=config.name,
        run_dir=str(run_dir),
        python=python,
        num_nodes=request.nodes,
        ranks_per_node=request.ranks_per_node,
        via=via,
        time=request.time,
        partition=request.partition,
        account=request.account,
        gpus_per_node=request.gpus_per_node or None,
        cpus_per_rank=request.cpus_per_rank,
        array=request.array,
        container=request.container,
        signal_seconds=request.signal_seconds,
        work_dir=str(Path.cwd()) if _names_relative_paths(config) else None,
        options=request.options,
    )


def unnamed_run_dir(config: RunConfig) -> Path:
    """Return what a dry run shows where a real one puts the time."""
    return Path(config.output).absolute() / f"{config.name}-{_UNNAMED_TIME}"


def choose_via(request: BatchRequest, python: str, warn: Callable[[str], None], *, dry_run: bool) -> MethodName:
    """Return what will start the ranks: what was asked for, else the best that works here.

    Args:
        request: Checked.
        python: Interpreter that will run the ranks.
        warn: Called if what was asked for does not seem to work here; the nodes may differ from this machine.
        dry_run: Look at nothing; the text is the same everywhere.

    Raises:
        LaunchError: If nothing works here.
    """
    if dry_run:
        return next((name for name in VIA_CHOICES if name == request.via), VIA_CHOICES[0])
    methods = launch_methods(python)
    if request.via == "auto":
        for method in methods:
            if method.works:
                return method.name
        raise LaunchError("No way of starting ranks works here. `heterotune doctor` says why; or name one with --via.")
    asked = next(method for method in methods if method.name == request.via)
    if not asked.works:
        warn(f"--via {asked.name} does not seem to work here: {asked.detail}.")
    return asked.name


def submit(script: BatchScript, config: RunConfig, environ: Mapping[str, str]) -> Submission:
    """Make the run folder (of an array, one for each seed), write the script into it, and submit it.

    Raises:
        LaunchError: If the folder cannot be made, or sbatch refuses; then the folder is taken away again.
    """
    root = Path(script.run_dir)
    existed = root.exists()
    try:
        folders = _make_folders(root, script, config)
        path = root / SCRIPT_FILE
        path.write_text(render(script), encoding="utf-8")
        job = submit_script(path, _job_environment(environ))
        for folder in folders:
            (folder.path / JOB_FILE).write_text(f"{_job_of(job, folder, script)}\n", encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            f"{root}: no run folder can be made there ({error.strerror}). Choose another --run-dir."
        ) from error
    except LaunchError:
        _remove(root, keep_root=existed)
        raise
    log = script.log_pattern.replace("%j", job).replace("%A", job).replace("seed-%a", "seed-*").replace("%a", "*")
    return Submission(job, path, folders, log)


def _job_of(job: str, folder: RunFolder, script: BatchScript) -> str:
    """Return what Slurm calls the job of a run folder."""
    return job if script.array is None else f"{job}_{folder.path.name.removeprefix('seed-')}"


def _make_folders(root: Path, script: BatchScript, config: RunConfig) -> tuple[RunFolder, ...]:
    if script.array is None:
        return (_make_folder(root, config),)
    seeds = array_seeds(script.array)
    return tuple(_make_folder(root / f"seed-{seed}", config.model_copy(update={"seed": seed})) for seed in seeds)


def _make_folder(path: Path, config: RunConfig) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder.open(path)
    folder.log_folder.mkdir()
    folder.write_config(config)
    return folder


def _remove(root: Path, *, keep_root: bool) -> None:
    """Take away what was made for a job that Slurm did not take; a folder that the user made stays, empty as it was."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep_root:
        root.rmdir()


def _job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Open MPI refuses root, who submits only in containers and tests, without these."""
    root_may = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {**environ, **root_may}


def _names_relative_paths(config: RunConfig) -> bool:
    """Whether the run file names something by a path from the folder where `submit` runs."""
    devices, trace = config.devices, config.availability.trace
    of_types = (place for entry in config.fleet for place in (entry.model, entry.adapter))
    others = (config.backbone.ds_config, devices.file, devices.trace, trace)
    paths = [Path(place) for place in (*of_types, *config.data.named_places, *others) if place is not None]
    return any(not path.is_absolute() and path.exists() for path in paths)
