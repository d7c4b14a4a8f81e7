"""Which ranks of a job hold which model types: what the run file says, or for `auto` what the plan picks."""

from __future__ import annotations

import json
import os
from collections import Counter

import psutil
import torch

from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.roll_call import nodes_of_ranks
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import ModelType
from heterotune.fleet.placement import Placement, dedicate, spread
from heterotune.planning.calibration import load_calibration, returns_memory
from heterotune.planning.cluster import Cluster
from heterotune.planning.placement_choice import pick_placement
from heterotune.planning.plan import PLANNED_STRATEGIES
from heterotune.planning.setting import Setting


def place_fleet(config: RunConfig, model_types: tuple[ModelType, ...], channel: Channel) -> tuple[RunConfig, Placement]:
    """Return the run with the placement that "auto" means here, and the placement. Every rank must call this.

    Args:
        config: The run.
        model_types: Its fleet.
        channel: The ranks.
    """
    nodes = nodes_of_ranks(channel, os.environ)
    setting = setting_of_job(config, model_types, nodes)
    if config.placement == "auto":
        kind = (
            pick_placement(setting) if channel.mpi_rank == ROOT and config.strategy in PLANNED_STRATEGIES else "spread"
        )
        kind = channel.broadcast_bytes(kind.encode()).decode()  # nodes may differ in memory
        config = config.model_copy(update={"placement": kind})
    if config.placement == "spread":
        return config, spread(len(model_types), channel.num_ranks)
    work = json.loads(channel.broadcast_bytes(json.dumps(setting.work_of_type).encode()))  # GPUs may differ, too
    return config, dedicate(work, nodes, whole_nodes=setting.deals_nodes)


def setting_of_job(config: RunConfig, model_types: tuple[ModelType, ...], nodes: tuple[str, ...]) -> Setting:
    """Return a run as a plan sees it on the machines that it runs on.

    Args:
        config: The run.
        model_types: Its fleet.
        nodes: The name of every MPI rank's node, in rank order.
    """
    ranks_of_node = Counter(nodes)
    num_gpus = torch.cuda.device_count()
    cluster = Cluster(
        nodes=len(ranks_of_node),
        ranks_per_node=max(ranks_of_node.values()),
        gpus_per_node=num_gpus,
        gpu_memory_bytes=torch.cuda.mem_get_info()[1] if num_gpus else None,
        host_memory_bytes=psutil.virtual_memory().total,
    )
    calibration = load_calibration(None, has_gpus=cluster.has_gpus)
    return Setting(config, model_types, cluster, calibration, returns_memory())
