"""What `heterotune init` writes: a commented run file, its schema, a DeepSpeed JSON and a batch script."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from heterotune.config.commented_yaml import commented_run
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.json_schema import run_schema
from heterotune.config.load import parse_run
from heterotune.errors import ConfigError, LaunchError
from heterotune.launching.batch_request import run_dir_problems
from heterotune.launching.slurm_script import BatchScript, render

RUN_FILE, DS_FILE, SCRIPT_FILE, SCHEMA_FILE = "run.yaml", "deepspeed.json", "job.sbatch", "run.schema.json"
DEFAULT_MODELS = ("embedded:small", "embedded:large")
DEFAULT_CLIENTS = 8
JOB_FOLDER = "runs/job"
"""Run folder of the batch script, beside the run file."""

_ABOUT = f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# Written by `heterotune init`. Paths in it start from the folder in which a command runs. Here:
#   heterotune plan              memory, bytes and time, before anything starts
#   heterotune run               on this machine; --ranks 2 for two MPI ranks
#   heterotune submit            in Slurm's queue (or edit and `sbatch {SCRIPT_FILE}`)
# Keys that are comments show their defaults.
"""


def starter_files(folder: Path, models: Sequence[str], num_clients: int) -> dict[str, str]:
    """Return the files to start from.

    Args:
        folder: Where they will be; the batch script names its run folder absolutely.
        models: One for each model type, as `fleet[].model` takes them.
        num_clients: Clients of the whole fleet; shared out evenly, the first model types get what is left over.

    Returns:
        Name of the file -> text.

    Raises:
        ConfigError: If there would be a model type without clients, or a model is not spelt right.
    """
    run = starter_run(models, num_clients)
    config, job_folder = parse_run(run), folder.absolute() / JOB_FOLDER
    if problems := run_dir_problems(job_folder, to_be_made=False):
        raise ConfigError([problem.replace("--run-dir", "run folder of the batch script") for problem in problems])
    script = BatchScript(
        name=config.name,
        run_dir=str(job_folder),
        python=sys.executable,
        num_nodes=1,
        ranks_per_node=min(2, num_clients),
        time="60",
        work_dir=str(folder.absolute()),
        run_file=str(folder.absolute() / RUN_FILE),
    )
    return {
        RUN_FILE: f"{_ABOUT}\n{commented_run(run)}",
        SCHEMA_FILE: json.dumps(run_schema(), indent=1) + "\n",
        DS_FILE: json.dumps(read_ds_config("zero3_cpu"), indent=2) + "\n",
        SCRIPT_FILE: render(script),
    }


def starter_run(models: Sequence[str], num_clients: int) -> dict[str, Any]:
    """Return the values that are set in the run file: a few minutes' run on a laptop with the embedded models."""
    if num_clients < len(models):
        raise ConfigError(
            [f"--clients = {num_clients} is less than the {len(models)} models. Give every model a client at least."]
        )
    names = _names(models)
    models = [str(Path(model).absolute()) if Path(model).is_dir() else model for model in models]
    share, extra = divmod(num_clients, len(models))
    fleet = [
        {"name": name, "model": model, "clients": share + (place < extra), **_siblings(model, models, names)}
        for place, (name, model) in enumerate(zip(names, models, strict=True))
    ]
    return {
        "name": "first-run",
        "seed": 17,
        "rounds": 3,
        "output": "runs",
        "fleet": fleet,
        "data": {
            "source": "embedded:stdlib",
            "partition": {"by": "natural"},
            "max_tokens": 64,
            "max_rows_per_client": 40,
        },
        "cohort": {"fraction": 0.5},
        "local": {"steps": 5, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.001},
        "strategy": "heterotune",
        "backbone": {"ds_config": f"./{DS_FILE}", "dtype": "auto"},
        "chunk": {"clients": 2},
        "evaluate": {"every_rounds": 1, "max_rows": 32},
    }


def write_files(folder: Path, files: Mapping[str, str], *, force: bool) -> list[Path]:
    """Write the files, all or none.

    Args:
        folder: Made if missing.
        files: Name -> text.
        force: Overwrite what is there.

    Raises:
        ConfigError: If one is there already.
        LaunchError: If the folder cannot be written to.
    """
    paths = [folder / name for name in files]
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise ConfigError([f"{path} is there already. Choose another folder, or add --force." for path in there])
    try:
        (folder / JOB_FOLDER / "logs").mkdir(parents=True, exist_ok=True)  # Slurm opens its log there before the job
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            f"{folder}: nothing can be written there ({error.strerror}). Choose another folder."
        ) from error
    return paths


def _names(models: Sequence[str]) -> list[str]:
    """Return a short name for each model: the end of its spelling, numbered where two are alike."""
    names: list[str] = []
    for model in models:
        kind, _, rest = model.partition(":")
        end = "random" if kind == "random" else PurePosixPath(rest or model).name
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", end).lstrip(".") or "model"
        same = sum(name == stem or name.startswith(f"{stem}.") for name in names)
        names.append(f"{stem}.{same + 1}" if same else stem)
    return names


def _siblings(model: str, models: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return what an embedded, depth-pruned model was cut from, if that is in the fleet, too."""
    origin, _, cut = model.rpartition("-")
    is_cut = model.startswith("embedded:") and cut.endswith("q") and origin in models
    return {"siblings_of": names[list(models).index(origin)]} if is_cut else {}
