"""What `placement: auto` picks, and what a plan says of dedicated ranks."""

from __future__ import annotations

import json

from heterotune.config.load import parse_run
from heterotune.planning.calibration import CPU_CORE
from heterotune.planning.cluster import Cluster
from heterotune.planning.fitting import lay_out
from heterotune.planning.placement_choice import pick_placement, with_placement
from heterotune.planning.plan import make_plan, plan_json, setting_of
from heterotune.planning.setting import Setting
from heterotune.planning.table import plan_report

MODEL = "random:hidden_size={},num_hidden_layers=4,num_attention_heads=4,vocab_size=4096"


def setting(
    *, num_ranks: int = 4, clients: tuple[int, ...] = (8, 8), num_gpus: int = 0, memory: int | None = None, **values
) -> Setting:
    sizes = (256, 512)
    run = {
        "name": "plan",
        "rounds": 2,
        "fleet": [
            {"name": f"m{place}", "model": MODEL.format(sizes[place]), "clients": count}
            for place, count in enumerate(clients)
        ],
        "data": {"source": "embedded:stdlib", "max_tokens": 32},
        "backbone": {"ds_config": "zero3_cpu"},
        "chunk": {"clients": 1},
        **values,
    }
    cluster = Cluster(ranks_per_node=num_ranks, gpus_per_node=num_gpus, gpu_memory_bytes=memory)
    return setting_of(parse_run(run), cluster, CPU_CORE)


def host_bytes(each: Setting, mpi_rank: int) -> int:
    return each.backbone_bytes_of(each.placement.held_by(mpi_rank))


def test_one_rank_or_one_type_is_never_dedicated() -> None:
    assert pick_placement(setting(num_ranks=1)) == "spread"
    assert pick_placement(setting(clients=(8,))) == "spread"


def test_uneven_lock_step_makes_dedicated_ranks_quicker() -> None:
    """Five clients a type on four ranks that share each backbone: two turns for each type, three of four ranks idle."""
    uneven, even = setting(clients=(5, 5)), setting(clients=(8, 8))
    assert pick_placement(uneven) == "dedicated" and pick_placement(even) == "spread"


def test_what_fits_wins() -> None:
    replicas = {"backbone": {"ds_config": "none"}, "num_gpus": 4}
    need = {
        kind: lay_out(with_placement(setting(**replicas), kind)).needs[0].need_bytes for kind in ("spread", "dedicated")
    }
    assert need["dedicated"] < need["spread"]
    assert pick_placement(setting(**replicas)) == "spread"
    assert pick_placement(setting(**replicas, memory=(need["dedicated"] + need["spread"]) // 2)) == "dedicated"


def test_a_plan_shows_the_pick_and_both_topologies(capsys) -> None:
    picked = setting(clients=(5, 5), placement="auto")
    assert picked.config.placement == "dedicated"
    plan = make_plan(picked)
    told = plan_json(plan)
    assert told["placement"] == "dedicated" and sum(told["ranks_of_type"].values()) == 4
    assert set(told["seconds"]["collect_by_topology"]) == {"root", "sharded"} and json.dumps(told)
    lines = [getattr(part, "plain", "") for part in plan_report(plan).renderables]
    assert any(line.startswith("placement dedicated: ranks that hold each model type: m0 ") for line in lines)
    assert any("slices are quicker from" in line for line in lines)


def test_a_dedicated_rank_is_planned_with_its_own_types_and_copy() -> None:
    dedicated = with_placement(setting(clients=(8, 8)), "dedicated")
    (small, *_, large), shapes = dedicated.placement.ranks_of_type, dedicated.shapes
    assert host_bytes(dedicated, small[0]) == -(-shapes[0].model_type.num_parameters // len(small)) * 4
    assert host_bytes(dedicated, large[0]) == -(-shapes[1].model_type.num_parameters // len(large)) * 4
    assert dedicated.sharding_of(1).group_size == len(large) > len(small) == dedicated.sharding_of(0).group_size
