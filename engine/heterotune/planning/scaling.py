"""Predictions for clusters that nobody here has: fleets on 8 to 1,024 ranks, both topologies, strong and weak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.planning.calibration import Calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.collecting import VALUE_BYTES
from heterotune.planning.known_models import HUB_IDS
from heterotune.planning.plan import Plan, make_plan, setting_of
from heterotune.planning.time_model import collect_by_topology, num_values

Kind = Literal["strong", "weak"]
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
FLEET_CLIENTS = 1024
RANKS_PER_NODE = 4
GIB, MIB = 1 << 30, 1 << 20
CPU_MODEL = "embedded:large"
GPU_MODELS = ("llama-2-7b", "llama-2-70b")


def scaling_run(model: str, *, cohort_clients: int) -> RunConfig:
    """Return the run of the tables: 1,024 clients of one model; a known LLaMA is offloaded, a small model a replica."""
    hub_id = next((each for each, name in HUB_IDS.items() if name == model), None)
    backbone = (
        {"ds_config": "none"} if hub_id is None else {"ds_config": "zero3_cpu", "group": "node", "checkpointing": True}
    )
    return parse_run(
        {
            "name": model.replace(":", "-"),
            "rounds": 30,
            "fleet": [{"name": "model", "model": hub_id or model, "clients": FLEET_CLIENTS}],
            "data": {
                "source": "embedded:stdlib",
                "max_tokens": 512 if hub_id else 128,
                "max_rows_per_client": 100,
            },
            "cohort": {"clients": cohort_clients},
            "local": {"steps": 10, "batch_size": 2},
            "heterotune": {"adapter_rank": 16, "head_rank": 64},
            "backbone": backbone,
            "chunk": {"max_clients": 8},
        }
    )


def scaling_plan(model: str, num_ranks: int, cohort_clients: int, calibration: Calibration) -> Plan:
    """Return the plan of one cell: four ranks a node, each with a GPU of 80 GiB if the model is a known LLaMA."""
    num_gpus = RANKS_PER_NODE if model in GPU_MODELS else 0
    cluster = Cluster(
        nodes=num_ranks // RANKS_PER_NODE,
        ranks_per_node=RANKS_PER_NODE,
        gpus_per_node=num_gpus,
        gpu_memory_bytes=80 * GIB if num_gpus else None,
        host_memory_bytes=512 * GIB,
    )
    return make_plan(setting_of(scaling_run(model, cohort_clients=cohort_clients), cluster, calibration))


def scaling_rows(calibration: Calibration) -> Iterator[dict[str, Any]]:
    """Yield a row per kind of scaling, model and number of ranks.

    Strong is all 1,024 clients in every round; weak is one client a rank.

    Args:
        calibration: Of a CPU's core, or of a GPU: it says which models make sense.
    """
    models = (CPU_MODEL,) if calibration.measured else GPU_MODELS
    for kind in ("strong", "weak"):
        for model in models:
            yield from _rows_of(model, kind, calibration)


def _rows_of(model: str, kind: Kind, calibration: Calibration) -> Iterator[dict[str, Any]]:
    first: float | None = None
    for num_ranks in RANKS:
        cohort = FLEET_CLIENTS if kind == "strong" else num_ranks
        plan = scaling_plan(model, num_ranks, cohort, calibration)
        setting = plan.setting
        sharded = plan.time.seconds - plan.time.collect + collect_by_topology(setting)["sharded"]
        seconds = min(plan.time.seconds, sharded)
        work = seconds * (num_ranks if kind == "strong" else 1)
        first = first or work
        yield {
            "scaling": kind,
            "model": model,
            "ranks": num_ranks,
            "clients_a_round": cohort,
            "clients_a_chunk": plan.layout.chunk_clients[0],
            "fits": plan.layout.fits,
            "seconds_root": round(plan.time.seconds, 3),
            "seconds_sharded": round(sharded, 3),
            "quicker": "root" if plan.time.seconds <= sharded else "sharded",
            "efficiency": round(first / work, 3),
            "adapter_mib": round(num_values(setting) * VALUE_BYTES / MIB, 2),
            "crossover_mib": round(plan.crossover_bytes / MIB, 3),
            "up_mib_a_client": round(sum(plan.bytes.up["model"].values()) / MIB, 2),
        }
