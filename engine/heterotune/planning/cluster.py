"""The machines that a plan is for, as the command line describes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heterotune.backbone.groups import GroupChoice, group_ranks
from heterotune.errors import ConfigError
from heterotune.planning.sizes import parse_bytes

MIB, PIB = 1 << 20, 1 << 50
_COUNTS = {"nodes": (1, 100_000), "ranks_per_node": (1, 1024), "gpus_per_node": (0, 64)}
_RATES = {"link_gbps": (1e-3, 1e5, "Gbit/s"), "flops": (1e6, 1e18, "FLOP/s of one rank")}


@dataclass(frozen=True)
class Cluster:
    """Nodes that are all alike.

    Attributes:
        nodes: How many.
        ranks_per_node: MPI ranks on each.
        gpus_per_node: GPUs on each; 0 = ranks compute on the CPU.
        gpu_memory_bytes: Of one GPU; None = not known, so not judged.
        host_memory_bytes: Of one node; None = not known.
        nvme_bytes: Of one node's local disk; None = not known.
        link_gbps: Network of one node, Gbit/s in each direction; None = the calibration's.
        flops: What one rank computes in a second; None = the calibration's.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    gpus_per_node: int = 0
    gpu_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    nvme_bytes: int | None = None
    link_gbps: float | None = None
    flops: float | None = None

    @property
    def num_ranks(self) -> int:
        """MPI ranks of the job."""
        return self.nodes * self.ranks_per_node

    @property
    def has_gpus(self) -> bool:
        """Whether ranks compute on GPUs."""
        return self.gpus_per_node > 0

    @property
    def ranks_per_gpu(self) -> int:
        """Ranks that share one GPU."""
        return -(-self.ranks_per_node // self.gpus_per_node) if self.has_gpus else 0

    @property
    def node_of_rank(self) -> list[str]:
        """The name of every rank's node."""
        return [str(mpi_rank // self.ranks_per_node) for mpi_rank in range(self.num_ranks)]

    def group_of(self, mpi_rank: int, choice: GroupChoice, crew_of_rank: Sequence[int]) -> tuple[int, ...]:
        """Return the ranks that share one ZeRO-3 copy with a rank."""
        groups = group_ranks(choice, self.node_of_rank, crew_of_rank)
        return next(group for group in groups if mpi_rank in group)


def describe_cluster(
    *,
    nodes: int = 1,
    ranks_per_node: int = 1,
    gpus_per_node: int = 0,
    gpu_memory: str | None = None,
    host_memory: str | None = None,
    nvme: str | None = None,
    link_gbps: float | None = None,
    flops: float | None = None,
) -> Cluster:
    """Check what a user says about the machines.

    Raises:
        ConfigError: With everything that is wrong: a number out of its range, a size that is none.
    """
    counts = {"nodes": nodes, "ranks_per_node": ranks_per_node, "gpus_per_node": gpus_per_node}
    sizes = {"gpu_memory": gpu_memory, "host_memory": host_memory, "nvme": nvme}
    rates = {"link_gbps": link_gbps, "flops": flops}
    problems = [
        f"{_option(name)} = {value} is not between {low} and {high}. Give what one job can have."
        for (name, (low, high)), value in zip(_COUNTS.items(), counts.values(), strict=True)
        if not low <= value <= high
    ]
    read = {name: None if text is None else parse_bytes(text) for name, text in sizes.items()}
    problems += [problem for name, text in sizes.items() if (problem := _size_problem(name, text, read[name]))]
    problems += [problem for name, value in rates.items() if (problem := _rate_problem(name, value))]
    if gpus_per_node == 0 and gpu_memory is not None:
        problems.append(f"--gpu-memory = {gpu_memory} without GPUs. Give --gpus-per-node, or drop it.")
    if problems:
        raise ConfigError(problems)
    return Cluster(**counts, **{f"{name}_bytes": size for name, size in read.items()}, **rates)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _size_problem(name: str, text: str | None, num_bytes: int | None) -> str | None:
    if text is None or (num_bytes is not None and 64 * MIB <= num_bytes <= PIB):
        return None
    if num_bytes is None:
        return f"{_option(name)} = {text!r} is no size. Write it like 80GiB, 512GB or 1.5TiB."
    return f"{_option(name)} = {text} is not between 64MiB and 1PiB. Give the memory of one node, or of one GPU."


def _rate_problem(name: str, value: float | None) -> str | None:
    low, high, unit = _RATES[name]
    if value is None or (math.isfinite(value) and low <= value <= high):
        return None
    return f"{_option(name)} = {value:g} is not between {low:g} and {high:g}. Give {unit}."
