"""Predictions for clusters that nobody here has: LLaMA-2 fleets on many ranks, strong and weak scaling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.planning.calibration import Calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.known_models import HUB_IDS
from heterotune.planning.plan import Plan, make_plan, setting_of

RANKS = (64, 128, 256, 512, 1024)
FLEET_CLIENTS = 1024
GPUS_PER_NODE = 4
GIB = 1 << 30


def scaling_run(model: str, *, cohort_clients: int) -> RunConfig:
    """Return the run of the tables: 1,024 clients of one known model, rows of 512 tokens, two a step."""
    hub_id = next(each for each, name in HUB_IDS.items() if name == model)
    return parse_run(
        {
            "name": model,
            "rounds": 30,
            "fleet": [{"name": model, "model": hub_id, "clients": FLEET_CLIENTS}],
            "data": {"source": "embedded:stdlib", "max_tokens": 512, "max_rows_per_client": 100},
            "cohort": {"clients": cohort_clients},
            "local": {"steps": 10, "batch_size": 2},
            "heterotune": {"adapter_rank": 16, "head_rank": 64},
            "backbone": {"ds_config": "zero3_cpu", "group": "node", "checkpointing": True},
            "chunk": {"max_clients": 8},
        }
    )


def scaling_plan(model: str, num_ranks: int, cohort_clients: int, calibration: Calibration) -> Plan:
    """Return the plan of one cell: four GPUs of 80 GiB and 512 GiB of memory a node, one rank a GPU."""
    cluster = Cluster(
        nodes=num_ranks // GPUS_PER_NODE,
        ranks_per_node=GPUS_PER_NODE,
        gpus_per_node=GPUS_PER_NODE,
        gpu_memory_bytes=80 * GIB,
        host_memory_bytes=512 * GIB,
    )
    return make_plan(setting_of(scaling_run(model, cohort_clients=cohort_clients), cluster, calibration))


def scaling_rows(calibration: Calibration, kind: Literal["strong", "weak"]) -> Iterator[dict[str, object]]:
    """Yield a row per model and number of ranks.

    Args:
        calibration: Of a GPU.
        kind: strong = all 1,024 clients in every round; weak = one client a rank.
    """
    for model in ("llama-2-7b", "llama-2-13b", "llama-2-70b"):
        first: float | None = None
        for num_ranks in RANKS:
            cohort = FLEET_CLIENTS if kind == "strong" else num_ranks
            plan = scaling_plan(model, num_ranks, cohort, calibration)
            seconds = plan.time.seconds
            first = first or seconds * (RANKS[0] if kind == "strong" else 1)
            efficiency = first / (seconds * (num_ranks if kind == "strong" else 1))
            needs = {need.where: need.need_bytes for need in plan.layout.needs}
            yield {
                "scaling": kind,
                "model": model,
                "ranks": num_ranks,
                "clients_a_round": cohort,
                "clients_a_chunk": plan.layout.chunk_clients[0],
                "fits": plan.layout.fits,
                "gpu_gib": round(needs["a GPU"] / GIB, 1),
                "node_host_gib": round(needs["the host memory of a node"] / GIB, 1),
                "seconds_a_round": round(seconds, 1),
                "efficiency": round(efficiency, 3),
                "up_mib_a_client": round(sum(plan.bytes.up[model].values()) / 2**20, 1),
            }
