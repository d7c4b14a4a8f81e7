"""Whether clients' devices could hold what clients train: the plan's formulas for one client, on its own hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
class DeviceFit:
    """What one client of a model type takes on a device, and what the device has.

    Attributes:
        model_type: Its name.
        method: The federated method at work.
        device: The smallest of its dtype that a client has or may draw.
        needs: Component -> bytes, at the highest moment of a step; words as in `profiling.components`.
    """

    model_type: str
    method: StrategyName
    device: Device
    needs: Mapping[str, int]

    @property
    def needed_bytes(self) -> int:
        """All of it."""
        return sum(self.needs.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.needed_bytes <= self.device.memory_bytes

    def as_record(self) -> dict[str, Any]:
        """Return it for JSON."""
        names = {"model_type": self.model_type, "method": self.method, "device": self.device.name}
        memory = {"memory_bytes": self.device.memory_bytes, "needed_bytes": self.needed_bytes, "fits": self.fits}
        return {**names, "dtype": self.device.dtype, **memory, "needs": dict(self.needs)}


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


def device_needs(setting: Setting, place: int) -> dict[str, int]:
    """Return what a client of one model type holds: component -> bytes.

    The backbone in the device's dtype, the adapter with gradient and first values, the optimiser's state, activations
    of a batch of full rows; no runtime and no data. Of methods that a plan refuses it is a lower bound.

    Args:
        setting: Of `device_setting`.
        place: Which model type.
    """
    shape, needs = setting.shapes[place], Counter(train_components(setting, place, 1))
    quantize = setting.config.backbone.quantize
    needs[words.BACKBONE_SHARDS] += held_bytes(shape, setting.sharding, setting.dtype_bytes, quantize)
    needs[words.ADAPTERS] += FP32 * sum(shape.frame_elements)
    return {name: num_bytes for name, num_bytes in needs.items() if num_bytes}


def device_fits(config: RunConfig, model_types: tuple[ModelType, ...], devices: Devices) -> list[DeviceFit]:
    """Return how the smallest devices of each model type fit, under each method of the run."""
    smallest = [devices.smallest(place, clients) for place, clients in enumerate(_clients_of_types(model_types))]
    fits = []
    for method in (config.strategy, *config.compare_with):
        for dtype in dict.fromkeys(dtype for of_dtype in smallest for dtype in of_dtype):
            setting = device_setting(_under(config, method), model_types, dtype)
            fits += [
                DeviceFit(model_types[place].name, method, of_dtype[dtype], device_needs(setting, place))
                for place, of_dtype in enumerate(smallest)
                if dtype in of_dtype
            ]
    return fits


def device_problems(fits: Iterable[DeviceFit]) -> list[str]:
    """Return what is said of devices that are too small for their model type."""
    way_out = "Lower local.batch_size or data.max_tokens, set devices.checkpointing, or give it another device."
    return [f"devices: {told_fit(fit)}. {way_out}" for fit in fits if not fit.fits]


def told_fit(fit: DeviceFit) -> str:
    """Return what a device has and what is needed, largest component first."""
    largest_first = sorted(fit.needs.items(), key=lambda item: -item[1])
    parts = ", ".join(
        f"{_SAID.get(name, name).format(dtype=fit.device.dtype)} {format_bytes(num_bytes)}"
        for name, num_bytes in largest_first
    )
    has = f"{fit.device.name} has {format_bytes(fit.device.memory_bytes)}"
    return (
        f"{has}, and a client of {fit.model_type} needs {format_bytes(fit.needed_bytes)} under {fit.method} ({parts})"
    )


def _clients_of_types(model_types: Sequence[ModelType]) -> Iterator[range]:
    """Yield the numbers of each model type's clients."""
    first = 0
    for model_type in model_types:
        yield range(first, first + model_type.num_clients)
        first += model_type.num_clients


def _under(config: RunConfig, method: StrategyName) -> RunConfig:
    return config if method == config.strategy else config.model_copy(update={"strategy": method, "compare_with": ()})
