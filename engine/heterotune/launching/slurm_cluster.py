"""What is asked of a Slurm cluster, through its own commands. Nothing here needs Slurm's accounting data base."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heterotune.errors import LaunchError

_LIMIT_SECONDS = 60.0
_FORGOTTEN = "Invalid job id specified"
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)


@dataclass(frozen=True)
class JobState:
    """What Slurm says about one job, or one task of an array.

    Attributes:
        name: PENDING, RUNNING, COMPLETED, ...
        reason: Why it waits or why it ended, e.g. Resources or TimeLimit.
        exit_code: Of the batch script; 128 + the signal's number if a signal ended it; 1 if it ended badly otherwise.
    """

    name: str
    reason: str = ""
    exit_code: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it will not run any more."""
        return self.name in _ENDED


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster.

    Attributes:
        name: Its name.
        num_nodes: Nodes in it.
        cpus_per_node: CPUs of its largest node, 0 if Slurm does not say.
        is_default: Whether jobs that name no partition go there.
    """

    name: str
    num_nodes: int
    cpus_per_node: int
    is_default: bool


def known_partitions() -> list[Partition] | None:
    """Return the cluster's partitions, or None if there is no sinfo here.

    Raises:
        LaunchError: If Slurm does not answer.
    """
    if shutil.which("sinfo") is None:
        return None
    done = _ask("sinfo", "--noheader", "--exact", "--format=%P %D %c")
    if done.returncode != 0:
        raise LaunchError(f"sinfo: {_last_line(done)}. Is this cluster's Slurm up?")
    partitions: dict[str, Partition] = {}
    for line in done.stdout.splitlines():  # one for each kind and state of nodes
        shown_name, num_nodes, cpus = line.split()
        name = shown_name.rstrip("*")
        so_far = partitions.get(name, Partition(name, 0, 0, shown_name.endswith("*")))
        largest = max(so_far.cpus_per_node, int(cpus))
        partitions[name] = Partition(name, so_far.num_nodes + int(num_nodes), largest, so_far.is_default)
    return sorted(partitions.values(), key=lambda partition: partition.name)


def submit_script(path: Path, environ: Mapping[str, str]) -> str:
    """Hand a batch script to Slurm.

    Args:
        path: The script.
        environ: The environment that the job inherits.

    Returns:
        The job's number.

    Raises:
        LaunchError: With what sbatch says, if it refuses the job.
    """
    done = _ask("sbatch", "--parsable", str(path), environ=environ)
    if done.returncode != 0:
        raise LaunchError(f"sbatch refused the job: {_last_line(done)}. Change the options it names.")
    return done.stdout.strip().split(";")[0]  # "number;cluster" on a federation of clusters


def read_job_states(job: str) -> list[JobState]:
    """Return the state of a job, or of every task of an array; empty once Slurm has forgotten it.

    Raises:
        LaunchError: If Slurm does not answer.
    """
    if shutil.which("scontrol") is None:
        raise LaunchError("scontrol is not on PATH. Put Slurm's commands there.")
    done = _ask("scontrol", "--oneliner", "show", "job", job)
    if done.returncode != 0 and _FORGOTTEN not in done.stderr:
        raise LaunchError(f"scontrol: {_last_line(done)}. Is this cluster's Slurm up?")
    return [_parse_state(line) for line in done.stdout.splitlines() if "JobState=" in line]


def _parse_state(line: str) -> JobState:
    """Read one line of `scontrol --oneliner show job`."""
    fields = dict(re.findall(r"(?:^|\s)(JobState|Reason|ExitCode)=(\S*)", line))
    code, _, signal_number = fields.get("ExitCode", "0:0").partition(":")
    exit_code = int(code) or (128 + int(signal_number) if int(signal_number or 0) else 0)
    name = fields["JobState"]
    ended_badly = name in _ENDED and name != "COMPLETED"
    return JobState(name, fields.get("Reason", ""), exit_code or int(ended_badly))


def _ask(*command: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{command[0]} did not answer in {_LIMIT_SECONDS:.0f} s. Is this cluster's Slurm up?"
        ) from None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1].rstrip(".") if lines else f"exit code {done.returncode}"
