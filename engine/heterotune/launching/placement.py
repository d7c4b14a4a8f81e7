"""Where a rank runs: its number on its host, its GPU, and the CPU cores that it keeps to.

Pure functions of what all ranks said of themselves (`roll_call`) and the machine's topology, so the ranks of a host
come to one division; `settle` applies them. Placement decides how fast a run is, never what comes out of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heterotune.collective.channel import Channel
from heterotune.collective.roll_call import RankFacts, call_roll, check_same_versions, own_facts

BindChoice = Literal["auto", "always", "never"]

SYSTEM_ROOT = Path("/sys/devices/system")
BATCH_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""A batch system gave the job its cores; elsewhere other programs and other runs may use the same ones."""


@dataclass(frozen=True)
class Placement:
    """Where one rank runs.

    Attributes:
        local_rank: Its number among the ranks of its host; picks the GPU.
        num_local_ranks: The ranks of its host.
        cores: The cores to keep to, in order; empty = leave it to the system.
        reason: Why these cores, or why none.
    """

    local_rank: int
    num_local_ranks: int
    cores: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        cores = f"cores {spell_cores(self.cores)}" if self.cores else "not bound to cores"
        return f"rank {self.local_rank} of {self.num_local_ranks} on this host, {cores}: {self.reason}"


@dataclass(frozen=True)
class CpuTopology:
    """Where the logical CPUs of a machine are; a CPU that is not named has place 0 and is its own core.

    Attributes:
        numa_node: CPU -> number of its NUMA node.
        core: CPU -> (package, core) that it is a hardware thread of.
    """

    numa_node: Mapping[int, int]
    core: Mapping[int, tuple[int, int]]


def settle(channel: Channel, local_rank: int, *, bind: BindChoice, num_threads: int) -> Placement:
    """Hear from all ranks, check that they run the same versions, and keep this process to its cores.

    Every rank must call this, before it starts threads.

    Args:
        channel: Just opened.
        local_rank: As the launcher says, 0 where it does not.
        bind: As `bind_cores` in the run file.
        num_threads: Threads of a rank.

    Raises:
        LaunchError: If hosts run different versions.
    """
    roll = call_roll(channel, own_facts(os.environ, local_rank))
    check_same_versions(roll)
    placement = place(
        roll, channel.mpi_rank, bind=bind, num_threads=num_threads, environ=os.environ, topology=read_topology()
    )
    if placement.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, placement.cores)
    return placement


def place(
    roll: Sequence[RankFacts],
    mpi_rank: int,
    *,
    bind: BindChoice,
    num_threads: int,
    environ: Mapping[str, str],
    topology: CpuTopology,
) -> Placement:
    """Decide where a rank runs.

    Args:
        roll: What every rank said.
        mpi_rank: Which of them.
        bind: As `bind_cores` in the run file; "auto" binds inside a batch job only.
        num_threads: Threads of a rank; a rank is not bound to fewer cores.
        environ: Tells a batch job.
        topology: Of this rank's host.
    """
    here = [number for number, facts in enumerate(roll) if facts.host == roll[mpi_rank].host]
    local_rank, mine = local_ranks(roll)[mpi_rank], roll[mpi_rank].cores
    if any(roll[other].cores != mine for other in here):
        return Placement(local_rank, len(here), mine, "as the launcher bound it")
    if bind == "never":
        return Placement(local_rank, len(here), (), "bind_cores is never")
    if bind == "auto" and not any(environ.get(name) for name in BATCH_VARIABLES):
        return Placement(local_rank, len(here), (), "no batch job, so others may use the same cores")
    share = divide_cores(mine, len(here), topology)[here.index(mpi_rank)] if len(mine) >= len(here) else ()
    if len(share) < num_threads:
        reason = f"{len(mine)} cores are too few for {len(here)} ranks of {num_threads} threads"
        return Placement(local_rank, len(here), (), reason)
    return Placement(local_rank, len(here), share, f"its share of {len(mine)} cores")


def local_ranks(roll: Sequence[RankFacts]) -> tuple[int, ...]:
    """Return every rank's number on its host: the launcher's where it tells the ranks of each host apart."""
    said = [(facts.host, facts.local_rank) for facts in roll]
    if len(set(said)) == len(said):
        return tuple(facts.local_rank for facts in roll)
    hosts = [facts.host for facts in roll]
    return tuple(hosts[:mpi_rank].count(host) for mpi_rank, host in enumerate(hosts))


def gpu_index(local_rank: int, num_gpus: int) -> int:
    """Return the GPU of a rank among those that it sees; a launcher that shows each rank its own shows it as 0."""
    return local_rank % num_gpus if num_gpus > 0 else local_rank


def divide_cores(cores: Sequence[int], num_ranks: int, topology: CpuTopology) -> tuple[tuple[int, ...], ...]:
    """Divide cores into one contiguous part for each rank, none of which crosses NUMA nodes if that can be.

    Args:
        cores: At least as many as ranks.
        num_ranks: At least 1.
        topology: Hardware threads of one core stay together where the numbers allow it.

    Returns:
        For each rank its cores, in increasing order.
    """
    ordered = sorted(cores, key=lambda cpu: (topology.numa_node.get(cpu, 0), topology.core.get(cpu, (0, cpu)), cpu))
    nodes: dict[int, list[int]] = {}
    for cpu in ordered:
        nodes.setdefault(topology.numa_node.get(cpu, 0), []).append(cpu)
    ranks_of_node = _split(list(range(num_ranks)), len(nodes))
    if num_ranks < len(nodes) or any(
        len(node) < len(ranks) for node, ranks in zip(nodes.values(), ranks_of_node, strict=True)
    ):
        parts = _split(ordered, num_ranks)
    else:
        pairs = zip(nodes.values(), ranks_of_node, strict=True)
        parts = [part for node, ranks in pairs for part in _split(node, len(ranks))]
    return tuple(tuple(sorted(part)) for part in parts)


def read_topology(root: Path = SYSTEM_ROOT) -> CpuTopology:
    """Read the machine's topology from the kernel's files; what is not there is left out."""
    numa_node = {
        cpu: int(path.parent.name.removeprefix("node"))
        for path in sorted(root.glob("node/node[0-9]*/cpulist"))
        for cpu in parse_cores(path.read_text())
    }
    core = {}
    for path in root.glob("cpu/cpu[0-9]*/topology/core_id"):
        package = path.with_name("physical_package_id")
        numbers = (int(package.read_text()) if package.is_file() else 0, int(path.read_text()))
        core[int(path.parts[-3].removeprefix("cpu"))] = numbers
    return CpuTopology(numa_node, core)


def parse_cores(text: str) -> tuple[int, ...]:
    """Read the kernel's way of listing CPUs, such as "0-3,8"."""
    cores: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return tuple(cores)


def spell_cores(cores: Sequence[int]) -> str:
    """Write CPUs as `parse_cores` reads them."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][-1] == core - 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _split(items: Sequence[int], num_parts: int) -> list[list[int]]:
    """Cut items into contiguous parts whose lengths differ by at most one."""
    bounds = [len(items) * number // num_parts for number in range(num_parts + 1)]
    return [list(items[low:high]) for low, high in zip(bounds, bounds[1:], strict=False)]
