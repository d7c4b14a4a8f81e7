"""Whether this cluster can take a job at all; Slurm would often let it wait in the queue for ever."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from heterotune.errors import LaunchError
from heterotune.launching.batch_request import BatchRequest
from heterotune.launching.slurm_cluster import Partition, known_partitions


def cluster_problems(request: BatchRequest) -> list[str]:
    """Ask this machine and its Slurm for what a request needs.

    Args:
        request: What was asked for.

    Returns:
        One line per problem: key, value, rule and a way out.
    """
    if shutil.which("sbatch") is None:
        return ["sbatch is not on PATH. Submit on a login node of the cluster, or look at the script with --dry-run."]
    try:
        partitions = known_partitions()
    except LaunchError as error:
        return [str(error)]
    return [] if partitions is None else _partition_problems(request, partitions)


def _partition_problems(request: BatchRequest, partitions: Sequence[Partition]) -> list[str]:
    """Names that are unknown, and more nodes or CPUs than there are."""
    names = [name for name in (request.partition or "").split(",") if name]
    there_are = ", ".join(partition.name for partition in partitions)
    unknown = set(names) - {partition.name for partition in partitions}
    problems = [
        f"--partition = {name} is not a partition of this cluster. There are: {there_are}." for name in sorted(unknown)
    ]
    chosen = [each for each in partitions if (each.name in names if names else each.is_default)]
    if problems or not chosen:
        return problems
    where = " or ".join(partition.name for partition in chosen)
    num_nodes = max(partition.num_nodes for partition in chosen)
    if request.nodes > num_nodes:
        text = f"--nodes = {request.nodes} is more than the {num_nodes} nodes of partition {where}"
        problems.append(f"{text}. Lower it, or name another --partition.")
    num_cpus, cpus_per_rank = max(partition.cpus_per_node for partition in chosen), request.cpus_per_rank or 1
    if request.ranks_per_node * cpus_per_rank > num_cpus:
        wanted = f"--ranks-per-node x --cpus-per-rank = {request.ranks_per_node} x {cpus_per_rank}"
        text = f"{wanted} is more than the {num_cpus} CPUs of a node of partition {where}"
        problems.append(f"{text}. Lower one of them, or name another --partition.")
    return problems
