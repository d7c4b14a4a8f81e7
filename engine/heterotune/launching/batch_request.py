"""What a user asks of a batch system, and every rule it must keep. Only text and numbers: no cluster is asked here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from heterotune.config.schema import RunConfig
from heterotune.launching.launch_methods import MethodName
from heterotune.launching.num_ranks import idle_ranks_problem

VIA_CHOICES: tuple[MethodName, ...] = ("mpirun", "srun", "deepspeed")
MAX_SIGNAL_SECONDS = 65535
MAX_SEEDS = 1000

_TIME_FORMS = (
    (r"(\d+)", (60,)),
    (r"(\d+):(\d\d)", (60, 1)),
    (r"(\d+):(\d\d):(\d\d)", (3600, 60, 1)),
    (r"(\d+)-(\d+)", (86400, 3600)),
    (r"(\d+)-(\d+):(\d\d)", (86400, 3600, 60)),
    (r"(\d+)-(\d+):(\d\d):(\d\d)", (86400, 3600, 60, 1)),
)
_WORD = re.compile(r"[\w.+@:/,-]+")
_OPTION = re.compile(r"[a-z][a-z-]*(=\S+)?")


@dataclass(frozen=True)
class BatchRequest:
    """The options of `heterotune submit`, as they were given. None = not given."""

    nodes: int
    ranks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_rank: int | None = None
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    array: str | None = None
    container: str | None = None
    via: str = "auto"
    signal_seconds: int = 120
    options: tuple[str, ...] = ()


def time_limit_seconds(text: str) -> int | None:
    """Return the seconds of a time limit as Slurm writes it (minutes, h:mm:ss, d-hh, ...), None if it is not one."""
    for pattern, units in _TIME_FORMS:
        if match := re.fullmatch(pattern, text, re.ASCII):
            return sum(int(part) * unit for part, unit in zip(match.groups(), units, strict=True))
    return None


def array_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a list such as `1-5`, `1,2,7` or `1-100%8` (at most 8 at a time), in order.

    Raises:
        ValueError: If it is not such a list, repeats a seed, or is longer than any cluster allows.
    """
    listed, _, together = text.partition("%")
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", listed, re.ASCII) or not re.fullmatch(r"[1-9]\d*|", together):
        raise ValueError("is not a list of seeds")
    if text.endswith("%"):
        raise ValueError("does not say how many at a time")
    seeds: list[int] = []
    for part in listed.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ValueError("has a range that runs backwards")
        if int(last or first) - int(first) >= MAX_SEEDS or len(seeds) >= MAX_SEEDS:
            raise ValueError(f"is more than {MAX_SEEDS} seeds")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError("repeats a seed")
    return tuple(seeds)


def request_problems(request: BatchRequest, config: RunConfig | None, overrides: tuple[str, ...] = ()) -> list[str]:
    """Check what can be known without a cluster.

    Args:
        request: What was asked for.
        config: The run; None if it could not be read, and then its cohort is not compared.
        overrides: What `--set` was given.

    Returns:
        One line per problem: key, value, rule and a way out.
    """
    return [
        *_count_problems(request, config),
        *_time_problems(request),
        *_array_problems(request, overrides),
        *_word_problems(request),
        *_start_problems(request),
    ]


def _count_problems(request: BatchRequest, config: RunConfig | None) -> list[str]:
    """Nodes, ranks, cores and GPUs."""
    least = {"--nodes": 1, "--ranks-per-node": 1, "--cpus-per-rank": 1, "--gpus-per-node": 0}
    given = (request.nodes, request.ranks_per_node, request.cpus_per_rank, request.gpus_per_node)
    problems = [
        f"{name} = {value} is less than {lowest}. Give at least {lowest}."
        for (name, lowest), value in zip(least.items(), given, strict=True)
        if value is not None and value < lowest
    ]
    if config is not None and request.nodes >= 1 and request.ranks_per_node >= 1:
        what = f"--nodes x --ranks-per-node = {request.nodes} x {request.ranks_per_node}"
        problems += idle_ranks_problem(config, request.nodes * request.ranks_per_node, what)
    return problems


def _time_problems(request: BatchRequest) -> list[str]:
    """The time limit, and the signal before it."""
    problems = []
    limit = None if request.time is None else time_limit_seconds(request.time)
    if request.time is not None and not limit:
        forms = "Write minutes (90), hours (12:00:00) or days (1-12:00:00)"
        problems.append(f"--time = {request.time} is not a time limit. {forms}.")
    if not 1 <= request.signal_seconds <= MAX_SIGNAL_SECONDS:
        text = f"--signal-seconds = {request.signal_seconds} is not from 1 to {MAX_SIGNAL_SECONDS}"
        problems.append(f"{text}. Give the seconds that a round and a checkpoint take.")
    elif limit and request.signal_seconds >= limit:
        text = f"--signal-seconds = {request.signal_seconds} is not less than --time = {request.time} ({limit} s)"
        problems.append(f"{text}. Lower it, or raise --time.")
    return problems


def _array_problems(request: BatchRequest, overrides: tuple[str, ...]) -> list[str]:
    """The seeds of a job array."""
    if request.array is None:
        return []
    problems = []
    try:
        array_seeds(request.array)
    except ValueError as error:
        problems.append(f"--array = {request.array} {error}. Write it like 1-5 or 1,2,7.")
    if any(override.partition("=")[0].strip() == "seed" for override in overrides):
        problems.append(f"--set seed contradicts --array = {request.array}, which gives the seeds. Drop one of them.")
    return problems


def _word_problems(request: BatchRequest) -> list[str]:
    """Text that becomes a part of an #SBATCH line, where a space or a new line would begin something else."""
    named = {"--partition": request.partition, "--account": request.account}
    problems = [
        f"{name} = {value!r} is not a name of Slurm's. Use letters, digits and _ . + @ : / , - only."
        for name, value in named.items()
        if value is not None and not _WORD.fullmatch(value)
    ]
    return problems + [
        f"--sbatch-option = {option!r} is not of the form name=value. Write it like --sbatch-option qos=high."
        for option in request.options
        if not _OPTION.fullmatch(option)
    ]


def _start_problems(request: BatchRequest) -> list[str]:
    """What starts the ranks, and in which container."""
    problems = []
    if request.via not in ("auto", *VIA_CHOICES):
        problems.append(f"--via = {request.via} is not a way to start ranks. Use auto, {', '.join(VIA_CHOICES)}.")
    if request.container is None:
        return problems
    if request.via == "deepspeed":
        problems.append(
            f"--container = {request.container} does not go with --via deepspeed, whose launcher starts its own "
            "Python. Use --via mpirun or --via srun."
        )
    if "://" not in request.container and not Path(request.container).exists():
        problems.append(f"--container = {request.container} does not exist. Give an image file or docker://NAME.")
    return problems


def run_dir_problems(run_dir: Path, *, to_be_made: bool) -> list[str]:
    """Check a run folder: #SBATCH lines must be able to carry its path, and it must be new.

    Args:
        run_dir: Absolute path.
        to_be_made: Whether it will be made; else only its path matters.
    """
    problems = []
    if not _WORD.fullmatch(str(run_dir)):
        text = f"--run-dir = {str(run_dir)!r} has characters that an #SBATCH line cannot carry"
        problems.append(f"{text}. Use letters, digits and _ . + @ : / , - only.")
    if to_be_made and run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        text = f"--run-dir = {run_dir} is not a new or empty folder"
        problems.append(f"{text}. Name another one; to go on with a run there, `sbatch {run_dir}/job.sbatch`.")
    return problems
