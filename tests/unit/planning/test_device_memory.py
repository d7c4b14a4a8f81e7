"""What one client takes on a device of its own, and which devices are too small for their model type."""

from __future__ import annotations

import pytest

from heterotune.config.load import parse_run
from heterotune.errors import ConfigError
from heterotune.fleet.devices import make_devices
from heterotune.fleet.model_types import read_model_types
from heterotune.planning.calibration import load_calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.device_memory import device_fits, device_needs, device_problems, device_setting
from heterotune.planning.plan import make_plan, plan_json, setting_of
from heterotune.planning.table import plan_report
from heterotune.profiling import components as words

MIB = 1 << 20


def run_of(memory_mib: float = 1000.0, checkpointing: bool = False, **changes):
    device = {"flops_per_second": 1e9, "down_mbit_per_second": 1.0, "up_mbit_per_second": 1.0}
    profiles = {"phone": {**device, "memory_gib": memory_mib / 1024}, "laptop": {**device, "memory_gib": 8.0}}
    assign = {"small": "laptop", "large": {"phone": 0.1, "laptop": 0.9}}
    run = {
        "name": "trial",
        "rounds": 1,
        "fleet": [{"name": name, "model": f"embedded:{name}", "clients": 2} for name in ("small", "large")],
        "data": {"source": "embedded:stdlib", "max_tokens": 128},
        "local": {"steps": 1, "batch_size": 4},
        "strategy": "fedavg_lora",
        "devices": {"profiles": profiles, "assign": assign, "checkpointing": checkpointing},
        **changes,
    }
    config = parse_run(run)
    return config, read_model_types(config.fleet)


def need_of(config, model_types, dtype="bf16"):
    """What a client of `large` holds."""
    return device_needs(device_setting(config, model_types, dtype), 1)


def problems_of(config, model_types):
    return device_problems(device_fits(config, model_types, make_devices(config, model_types)))


def test_the_backbone_in_the_devices_dtype_and_one_clients_adapter():
    config, model_types = run_of()
    weights = model_types[1].num_parameters
    needs = {dtype: need_of(config, model_types, dtype) for dtype in ("fp32", "bf16", "nf4")}
    held = {dtype: need[words.BACKBONE_SHARDS] for dtype, need in needs.items()}
    assert (held["fp32"], held["bf16"]) == (4 * weights, 2 * weights)
    assert weights / 2 < held["nf4"] < 2 * weights
    linears = sum(rows + columns for rows, columns in model_types[1].linear_shapes.values())
    adapter = config.fedavg_lora.adapter_rank * model_types[1].num_layers * linears
    assert needs["bf16"][words.ADAPTERS] == 3 * 4 * adapter  # values, gradients, values at the start
    assert needs["bf16"][words.OPTIMIZER_STATE] == 2 * 4 * adapter  # AdamW
    assert words.RUNTIME not in needs["bf16"] and words.GATHERED_LAYERS not in needs["bf16"]


def test_checkpointing_and_smaller_batches_save_activations():
    config, model_types = run_of()
    whole = need_of(config, model_types)[words.ACTIVATIONS]
    sparing = need_of(run_of(checkpointing=True)[0], model_types)[words.ACTIVATIONS]
    half = run_of(local={"steps": 1, "batch_size": 2})[0]
    assert sparing < 0.6 * whole
    assert need_of(half, model_types)[words.ACTIVATIONS] < 0.7 * whole


def test_a_device_that_is_too_small_is_refused_with_the_numbers():
    config, model_types = run_of()
    needed = sum(need_of(config, model_types).values()) / MIB
    roomy, tight = (run_of(memory_mib=factor * needed)[0] for factor in (1.01, 0.99))
    assert problems_of(roomy, model_types) == []
    (problem,) = problems_of(tight, model_types)
    assert problem.startswith(
        f"devices: phone has {0.99 * needed:.1f} MiB, and a client of large needs {needed:.1f} MiB"
    )
    assert "activations" in problem and "backbone in bf16" in problem and "Lower local.batch_size" in problem
    both = tight.model_copy(update={"compare_with": ("fedavg_full",)})
    assert "under fedavg_full" in problems_of(both, model_types)[1]


@pytest.mark.parametrize("placement", ["dedicated", "auto"])
def test_a_device_is_no_rank(placement):
    config, model_types = run_of()
    assert need_of(run_of(placement=placement)[0], model_types) == need_of(config, model_types)


def test_a_plan_says_it_too():
    config, _ = run_of(memory_mib=1.0)
    with pytest.raises(ConfigError, match="devices: phone has 1.00 MiB, and a client of large needs"):
        setting_of(config, Cluster(), load_calibration(None, has_gpus=False))


def test_a_plan_tells_what_fits():
    config, _ = run_of()
    plan = make_plan(setting_of(config, Cluster(), load_calibration(None, has_gpus=False)))
    found = [(fit["model_type"], fit["device"], fit["fits"]) for fit in plan_json(plan)["devices"]]
    assert found == [("small", "laptop", True), ("large", "phone", True)]
    lines = [getattr(part, "plain", "") for part in plan_report(plan).renderables]
    assert any(line.startswith("device: phone has 1000 MiB, and a client of large needs") for line in lines)
