"""Whether clients' devices could hold what clients train: the plan's formulas for one client, on its own hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from heterotune.config.deepspeed_json import NO_DEEPSPEED
from heterotune.config.device_options import DeviceDtype
from heterotune.config.engine_options import NO_QUANTIZATION, BackboneConfig
from heterotune.config.field_types import StrategyName
from heterotune.config.schema import RunConfig
from heterotune.fleet.devices import Device, Devices
from heterotune.fleet.model_types import ModelType
from heterotune.planning.backbone_memory import held_bytes
from heterotune.planning.calibration import load_calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.memory_model import train_components
from heterotune.planning.setting import Setting
from heterotune.profiling import components as words
from heterotune.report.quantities import format_bytes

FP32 = 4
_SAID = {
    words.BACKBONE_SHARDS: "backbone in {dtype}",
    words.ADAPTERS: "adapter and its gradient",
    words.OPTIMIZER_STATE: "optimiser",
    words.ACTIVATIONS: "activations",
    words.LOGITS: "logits",
}


@dataclass(frozen=True)
class DeviceNeed:
    """What training one client takes on its device.

    Attributes:
        by_component: Component -> bytes, at the highest moment of a step; words as in `profiling.components`.
    """

    by_component: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self.by_component.values())


def device_setting(config: RunConfig, model_types: tuple[ModelType, ...], dtype: DeviceDtype) -> Setting:
    """Return what the plan's formulas need, where every client is a machine of its own.

    Args:
        config: The run, with `strategy` the method at work.
        model_types: Its fleet.
        dtype: In which devices hold weights.
    """
    held = BackboneConfig(
        ds_config=NO_DEEPSPEED,
        dtype="bf16" if dtype == "nf4" else dtype,
        quantize="nf4" if dtype == "nf4" else NO_QUANTIZATION,
        checkpointing=config.devices.checkpointing,
    )
    own_run = config.model_copy(update={"backbone": held})
    # A device gives freed memory back, as the plan takes it for GPUs.
    return Setting(own_run, model_types, Cluster(gpus_per_node=1), load_calibration(None, has_gpus=True))


def device_need(setting: Setting, place: int) -> DeviceNeed:
    """Return what a client of one model type holds.

    The backbone in the device's dtype, the adapter with gradient and first values, the optimiser's state, activations
    of a batch of full rows; no runtime and no data. Of methods that a plan refuses it is a lower bound.

    Args:
        setting: Of `device_setting`.
        place: Which model type.
    """
    shape, need = setting.shapes[place], Counter(train_components(setting, place, 1))
    quantize = setting.config.backbone.quantize
    need[words.BACKBONE_SHARDS] += held_bytes(shape, setting.sharding, setting.dtype_bytes, quantize)
    need[words.ADAPTERS] += FP32 * sum(shape.frame_elements)
    return DeviceNeed({name: num_bytes for name, num_bytes in need.items() if num_bytes})


def device_problems(config: RunConfig, model_types: tuple[ModelType, ...], devices: Devices) -> list[str]:
    """Return what is said of devices that are too small for their model type, under each method of the run."""
    smallest = [devices.smallest(place, clients) for place, clients in enumerate(_clients_of_types(model_types))]
    problems = []
    for method in (config.strategy, *config.compare_with):
        for dtype in dict.fromkeys(dtype for of_dtype in smallest for dtype in of_dtype):
            setting = device_setting(_under(config, method), model_types, dtype)
            problems += [
                problem
                for place, of_dtype in enumerate(smallest)
                if dtype in of_dtype
                for problem in _problems(setting, place, of_dtype[dtype])
            ]
    return problems


def _clients_of_types(model_types: Sequence[ModelType]) -> Iterator[range]:
    """Yield the numbers of each model type's clients."""
    first = 0
    for model_type in model_types:
        yield range(first, first + model_type.num_clients)
        first += model_type.num_clients


def _problems(setting: Setting, place: int, device: Device) -> Iterator[str]:
    """Yield what is said of one device if it is too small."""
    need, name, method = device_need(setting, place), setting.model_types[place].name, setting.config.strategy
    if need.total_bytes > device.memory_bytes:
        has = f"devices: {device.name} has {format_bytes(device.memory_bytes)}"
        needs = f"a client of {name} needs {format_bytes(need.total_bytes)} under {method}"
        way_out = "Lower local.batch_size or data.max_tokens, set devices.checkpointing, or give it another device."
        yield f"{has}, and {needs} ({_told(need, device.dtype)}). {way_out}"


def _under(config: RunConfig, method: StrategyName) -> RunConfig:
    return config if method == config.strategy else config.model_copy(update={"strategy": method, "compare_with": ()})


def _told(need: DeviceNeed, dtype: DeviceDtype) -> str:
    """Return the components of a need, largest first."""
    largest_first = sorted(need.by_component.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{_SAID.get(name, name).format(dtype=dtype)} {format_bytes(num_bytes)}" for name, num_bytes in largest_first
    )
