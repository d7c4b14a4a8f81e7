"""Plans: they fit or say why not, and what they propose holds under the same model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.load import parse_run
from heterotune.config.methods import METHODS
from heterotune.errors import ConfigError, ModelError
from heterotune.planning.bank_memory import moments_bytes
from heterotune.planning.buffers import common_elements, kept_bytes, sums_bytes
from heterotune.planning.calibration import A100, CPU_CORE
from heterotune.planning.cluster import Cluster
from heterotune.planning.fitting import lay_out
from heterotune.planning.known_models import KNOWN_MODELS
from heterotune.planning.memory_model import rank_memory
from heterotune.planning.plan import (
    NOT_PLANNED,
    PLANNED_STRATEGIES,
    assumptions,
    estimate_memory,
    make_plan,
    plan_json,
    setting_of,
)
from heterotune.planning.setting import Setting
from heterotune.planning.table import plan_report
from heterotune.report.quantities import format_seconds

GIB = 1 << 30


def run_values(model: str = "embedded:small", clients: int = 8, **sections) -> dict:
    return {
        "name": "planned",
        "rounds": 2,
        "fleet": [{"name": "m", "model": model, "clients": clients}],
        "data": {"source": "embedded:stdlib", "max_tokens": 128, "max_rows_per_client": 10},
        "local": {"steps": 2, "batch_size": 4},
        "backbone": {"ds_config": "none"},
        **sections,
    }


ONE_RANK = Cluster()


def setting(values: dict, cluster: Cluster = ONE_RANK, calibration=CPU_CORE) -> Setting:
    return replace(setting_of(parse_run(values), cluster, calibration), returns_memory=False)


def test_what_a_plan_proposes_makes_the_run_fit() -> None:
    cluster = Cluster(host_memory_bytes=GIB)
    values = run_values(chunk={"clients": 8}, data={"source": "embedded:stdlib", "max_tokens": 1024})
    plan = make_plan(setting(values, cluster))
    assert not plan.layout.fits
    assert plan.verdict.startswith("does not fit, because the host memory of a node would need ")
    assert "of 1.00 GiB in phase train, most of it activations; try chunk.clients: 1; or " in plan.verdict
    values["chunk"] = {"clients": 1}
    assert make_plan(setting(values, cluster)).layout.fits


def test_several_changes_together_where_none_is_enough_alone() -> None:
    values = run_values(chunk={"clients": 8}, data={"source": "embedded:stdlib", "max_tokens": 4096})
    values["backbone"]["checkpointing"] = True
    need_bytes = make_plan(setting({**values, "chunk": {"clients": 1}}, Cluster())).layout.needs[0].need_bytes
    plan = make_plan(setting(values, Cluster(host_memory_bytes=need_bytes - (64 << 20))))
    assert len(plan.ways_out) == 1 and plan.ways_out[0].startswith("chunk.clients: 1 and ")


def test_where_nothing_helps_the_plan_says_so() -> None:
    plan = make_plan(setting(run_values(), Cluster(host_memory_bytes=100 << 20)))
    assert plan.ways_out == () and plan.verdict.endswith("nothing that the plan tried makes it fit")


def test_unknown_limits_are_named() -> None:
    verdict = make_plan(setting(run_values())).verdict
    assert verdict == "fits, as far as is known: how large the host memory of a node is was not given"


def test_auto_picks_the_largest_chunk_that_fits() -> None:
    values = run_values(KNOWN_MODELS["llama-3.2-1b"], clients=32, backbone={"ds_config": "zero3_cpu"})
    wide = Cluster(gpus_per_node=1, gpu_memory_bytes=80 * GIB)
    roomy = lay_out(setting(values, wide, A100))
    tight_bytes = lay_out(setting({**values, "chunk": {"clients": 8}}, wide, A100)).needs[0].need_bytes
    tight = lay_out(setting(values, replace(wide, gpu_memory_bytes=tight_bytes), A100))
    assert roomy.picked and roomy.chunk_clients == {0: 32}
    assert tight.chunk_clients == {0: 8} and tight.fits


def test_chunks_are_cut_evenly() -> None:
    chunk = {"max_clients": 6}
    assert lay_out(setting(run_values(clients=8, chunk=chunk))).chunk_clients == {0: 4}


@pytest.mark.parametrize("change", [{"checkpointing": True}, {"dtype": "bf16"}])
def test_what_saves_memory_saves_it(change) -> None:
    values = run_values(KNOWN_MODELS["llama-3.2-1b"], chunk={"clients": 8})
    before = estimate(values)
    values["backbone"] = {"ds_config": "none", **change}
    assert estimate(values) < before


def estimate(values: dict, *, num_ranks: int = 1) -> int:
    cluster = Cluster(ranks_per_node=num_ranks)
    return estimate_memory(setting(values, cluster), {0: 8})["train", "host_resident"]


def test_estimates_are_by_phase_and_kind_of_memory_jsonl() -> None:
    values = run_values(KNOWN_MODELS["llama-3.2-1b"], backbone={"ds_config": "zero3_cpu"})
    gpu = Cluster(ranks_per_node=2, gpus_per_node=2)
    estimates = estimate_memory(setting(values, gpu), {0: 2}, mpi_rank=1)
    assert {phase for phase, _ in estimates} == {
        *("load", "train", "encode", "gather", "aggregate", "broadcast", "evaluate", "checkpoint")
    }
    assert {kind for phase, kind in estimates if phase == "train"} == {
        *("host_resident", "host_pinned", "device_allocated", "device_reserved")
    }
    assert estimates["train", "device_reserved"] > estimates["train", "device_allocated"] > 0


def test_sharding_divides_the_weights() -> None:
    values = run_values(KNOWN_MODELS["llama-2-7b"], backbone={"ds_config": "zero3_cpu", "dtype": "bf16"})
    one, four = (
        lay_out(setting(values, Cluster(ranks_per_node=ranks))).busiest["train"].by_place["host"]["backbone_shards"]
        for ranks in (1, 4)
    )
    assert one == 2 * 6_738_415_616 and four == one // 4


def test_replicas_on_cpus_are_mapped_once_for_a_node() -> None:
    values = run_values(KNOWN_MODELS["llama-3.2-1b"], chunk={"clients": 1})
    one, four = (lay_out(setting(values, Cluster(ranks_per_node=ranks))).busiest["train"] for ranks in (1, 4))
    weights = one.by_place["host"]["backbone_shards"]
    assert weights == 4 * 1_235_814_400 == four.by_place["host"]["backbone_shards"]
    layout = lay_out(setting(values, Cluster(ranks_per_node=4)))
    assert four.total_bytes("host") < layout.needs[0].need_bytes < 4 * four.total_bytes("host") - 2 * weights


def test_nvme_holds_the_shards() -> None:
    values = run_values(KNOWN_MODELS["llama-2-7b"], backbone={"ds_config": "zero3_nvme"})
    cluster = Cluster(ranks_per_node=2, gpus_per_node=2, gpu_memory_bytes=80 * GIB, nvme_bytes=GIB)
    plan = make_plan(setting(values, cluster, A100))
    need = plan.layout.needs[2]
    assert need.where == "the NVMe of a node" and need.need_bytes == 2 * 6_738_415_616 and not need.fits
    assert "the NVMe of a node would need 12.6 GiB of 1.00 GiB" in plan.verdict


def test_one_rank_moves_nothing() -> None:
    moved = make_plan(setting(run_values())).traffic
    assert (moved.sum_to_root_bytes, moved.broadcast_bytes, moved.zero3_gather_bytes) == (0, 0, 0)


def test_gathers_count_forward_and_backward_of_every_pass() -> None:
    values = run_values(KNOWN_MODELS["llama-2-7b"], backbone={"ds_config": "zero3_cpu", "dtype": "bf16"})
    values["chunk"] = {"clients": 4}
    moved = make_plan(setting(values, Cluster(ranks_per_node=2))).traffic
    assert moved.zero3_gather_bytes == 2 * 6_738_415_616 * 2 * 2 // 2  # bf16, forward and backward, 2 steps, half


def test_twice_the_speed_halves_the_time_of_computing() -> None:
    plans = (make_plan(setting(run_values(), Cluster(flops=flops))) for flops in (1e9, 2e9, 4e9))
    slow, middle, fast = (plan.time.seconds for plan in plans)
    assert slow - middle == pytest.approx(2 * (middle - fast)) and slow > middle > fast > 0


def test_rounds_of_a_buffered_clock_after_the_first_are_shorter() -> None:
    phone = {"flops_per_second": 1e9, "memory_gib": 4, "down_mbit_per_second": 1, "up_mbit_per_second": 1}
    devices = {"profiles": {"phone": phone}, "assign": {"m": "phone"}}
    values = run_values(devices=devices, rounds=100, chunk={"clients": 1})
    all_eight = make_plan(setting({**values, "clock": {"mode": "synchronous"}}))
    assert all_eight.time == all_eight.first_time and all_eight.run_seconds == pytest.approx(
        100 * all_eight.time.seconds
    )
    plan = make_plan(setting({**values, "clock": {"mode": "buffered", "concurrency": 8, "buffer": 1}}))
    assert plan.first_time == all_eight.time and plan.time.train == pytest.approx(plan.first_time.train / 8)
    assert plan_json(plan)["seconds"]["run"] == pytest.approx(plan.first_time.seconds + 99 * plan.time.seconds)
    lines = " ".join(getattr(part, "plain", "") for part in plan_report(plan).renderables)
    assert f"a round takes about {format_seconds(plan.time.seconds)} (the first " in lines
    assert f"the run about {format_seconds(plan.run_seconds)}" in lines and "however fast their devices" in lines


def heterotune(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(run_values()))  # JSON is YAML
    return path


def test_the_command_prints_json_with_stable_keys(run_yaml) -> None:
    done = heterotune("plan", run_yaml, "--host-memory", "16GiB", "--ranks-per-node", 2, "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.output)
    assert sorted(plan) == [
        *("assumptions", "chunk_clients", "chunk_clients_picked", "cluster", "devices", "dtype", "federation_bytes"),
        *("fits", "memory_bytes", "needs", "parameters", "placement", "ranks_of_type", "seconds", "traffic_bytes"),
        *("try", "verdict", "version"),
    ]
    assert plan["fits"] and plan["verdict"] == "fits" and plan["chunk_clients"] == {"m": 4}


def test_the_command_ends_with_1_where_a_run_does_not_fit(run_yaml) -> None:
    done = heterotune("plan", run_yaml, "--host-memory", "100MiB")
    assert done.exit_code == 1 and "does not fit, because the host memory of a node" in " ".join(done.output.split())


def test_the_rows_that_are_assumed_are_those_that_the_run_file_names() -> None:
    drawn = {"source": "embedded:stdlib", "heldout": "pool", "partition": {"by": "drawn", "rows_per_client": 7}}
    said = {
        "10 (data.max_rows_per_client)": run_values(),
        "7 (data.partition.rows_per_client)": run_values(data=drawn),
        "100": run_values(data={"source": "embedded:stdlib"}),
    }
    for rows, values in said.items():
        assert f"every client has {rows} training rows" in assumptions(make_plan(setting(values)))[0]


def test_what_only_the_data_would_say_of_classes_is_assumed_aloud() -> None:
    classes = {"source": "rows.csv", "fields": {"text": "text", "label": "label"}, "public": "questions.csv"}
    fleet = [{"name": name, "model": f"embedded:{name}", "clients": 8} for name in ("small", "large")]
    told = " ".join(assumptions(make_plan(setting(run_values(data=classes, fleet=fleet)))))
    assert "Class names have heterotune.head_basis = 64 tokens" in told and "learn from one another" in told
    assert "head_basis" not in " ".join(assumptions(make_plan(setting(run_values()))))


def test_problems_of_run_file_and_machines_are_told_together(run_yaml) -> None:
    done = heterotune("plan", run_yaml, "--nodes", 0, "--set", "rounds=0")
    assert done.exit_code == 2
    assert "--nodes = 0" in done.output and "rounds" in done.output


def test_a_model_folder_without_config_is_a_clear_error(run_yaml, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    done = heterotune("plan", run_yaml, "--set", f"fleet.0.model={tmp_path / 'model'}")
    assert done.exit_code == 2 and "config.json is missing; a model folder needs its config.json." in done.output


def test_a_folder_with_a_config_needs_no_weights(run_yaml, tmp_path) -> None:
    llama = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    llama |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    options = [f"fleet.0.model={tmp_path}", "heterotune.head_basis=32"]
    done = heterotune("plan", run_yaml, "--set", options[0], "--set", options[1])
    assert done.exit_code == 0, done.output


def test_a_hub_model_that_is_not_cached_is_not_downloaded(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ModelError, match="not in the hub's local cache, and a plan downloads nothing"):
        setting_of(parse_run(run_values("some/model")), Cluster(), CPU_CORE)


def test_a_hub_id_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a local folder nor a hub id"):
        setting_of(parse_run(run_values("so me/mo del")), Cluster(), CPU_CORE)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_planned_or_refused_with_the_reason(name) -> None:
    config = parse_run({**run_values("embedded:small"), "strategy": name})
    assert (name in PLANNED_STRATEGIES) != (name in NOT_PLANNED)
    if name in PLANNED_STRATEGIES:
        assert make_plan(setting_of(config, Cluster(), CPU_CORE)).layout.fits
        return
    told = f"strategy = {name} cannot be planned: {NOT_PLANNED[name]}. Plan heterotune or fedavg_lora, or measure"
    with pytest.raises(ConfigError, match=told):
        setting_of(config, Cluster(), CPU_CORE)


def test_state_that_does_not_train_is_held_but_in_no_pass() -> None:
    plain, scaffold = (
        setting_of(parse_run({**run_values("embedded:small"), "strategy": name}), Cluster(), CPU_CORE).shapes[0]
        for name in ("fedavg_lora", "scaffold")
    )
    assert scaffold.layout.num_columns == 3 * plain.layout.num_columns
    assert scaffold.branch_elements == plain.branch_elements == plain.layout.num_columns
    local = parse_run(run_values("embedded:small")).local
    assert (
        moments_bytes(scaffold, 1, local) == 4 * scaffold.layout.num_columns * 3
    )  # two moments and the rates' factors
    assert moments_bytes(plain, 1, local) == 4 * plain.layout.num_columns * 2


def test_the_root_keeps_the_servers_moments() -> None:
    settings = {
        name: setting_of(parse_run({**run_values("embedded:small"), "strategy": name}), Cluster(), CPU_CORE)
        for name in ("fedavg_lora", "fedavgm", "fedadam")
    }
    held = {name: rank_memory(setting, [])["gather"].total_bytes("host") for name, setting in settings.items()}
    num_elements = settings["fedavg_lora"].shapes[0].layout.num_travelling
    assert held["fedavgm"] - held["fedavg_lora"] == 8 * num_elements
    assert held["fedadam"] - held["fedavg_lora"] == 2 * 8 * num_elements


def test_the_sharded_topology_takes_a_second_copy_of_the_sums_and_combines_a_slice() -> None:
    root, sharded = (
        setting_of(
            parse_run({**run_values("embedded:small"), "collective": {"topology": topology}}),
            Cluster(ranks_per_node=2),
            CPU_CORE,
        )
        for topology in ("root", "sharded")
    )
    again = sum(sums_bytes(shape) for shape in sharded.shapes) + 4 * common_elements(sharded.shapes)
    assert kept_bytes(sharded) - kept_bytes(root) == again
    memory = [rank_memory(setting, setting.chunks_by_rank({0: 1})[0]) for setting in (root, sharded)]
    assert memory[1]["train"].total_bytes("host") - memory[0]["train"].total_bytes("host") == again


def test_4_bit_weights_are_planned_as_bitsandbytes_holds_them() -> None:
    model = "random:hidden_size=256,num_hidden_layers=4,intermediate_size=512,tie_word_embeddings=false"
    sections = {"strategy": "fedavg_lora", "chunk": {"clients": 1}}
    plain = setting(run_values(model, **sections))
    four_bits = setting(run_values(model, **sections, backbone={"ds_config": "none", "quantize": "nf4"}))
    linears = 4 * (4 * 256 * 256 + 3 * 256 * 512)
    assert (
        plain.backbone_bytes_of((0,)) - four_bits.backbone_bytes_of((0,))
        == linears * 4 - linears // 2 - linears // 64 * 4
    )
    needs = [
        rank_memory(each, each.chunks_by_rank({0: 1})[0])["train"].total_bytes("host") for each in (plain, four_bits)
    ]
    assert needs[0] - needs[1] == plain.backbone_bytes_of((0,)) - four_bits.backbone_bytes_of((0,))
