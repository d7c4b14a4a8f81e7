"""Where the weights of the backbones are, and what ZeRO-3 gathers: our derivation from DeepSpeed 0.19's coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heterotune.config.engine_options import NO_QUANTIZATION
from heterotune.planning.shapes import TypeShape

Place = Literal["replica", "cpu", "nvme", "device"]
_FOUR_BIT_BYTES = 1 / 2 + 4 / 64  # bitsandbytes: a float32 scale for each block of 64 weights
_PREFETCH_ELEMENTS = 50_000_000
_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's defaults of stage3_prefetch_bucket_size and stage3_max_live_parameters."""


@dataclass(frozen=True)
class Sharding:
    """How weights are held.

    Attributes:
        place: A plain replica; or shards in host memory, on NVMe, or where the rank computes.
        group_size: Ranks that share one copy.
        group_nodes: Nodes over which they are spread.
        on_gpus: Whether ranks compute on GPUs.
        pinned: Whether shards in host memory are pinned.
        nvme_buffer_elements: Elements of the buffers through which weights come from NVMe.
        prefetch_elements: stage3_prefetch_bucket_size.
        live_elements: stage3_max_live_parameters.
    """

    place: Place
    group_size: int = 1
    group_nodes: int = 1
    on_gpus: bool = False
    pinned: bool = False
    nvme_buffer_elements: int = 0
    prefetch_elements: int = _PREFETCH_ELEMENTS
    live_elements: int = _LIVE_ELEMENTS

    @property
    def gathers(self) -> bool:
        """Whether weights at work are copies: of several ranks' parts, or on another device than their own."""
        return self.is_sharded and (
            self.group_size > 1 or self.place == "nvme" or (self.on_gpus and self.place == "cpu")
        )

    @property
    def is_sharded(self) -> bool:
        """Whether ZeRO-3 is at work."""
        return self.place != "replica"


def read_sharding(ds_config: Mapping[str, Any] | None, *, group_size: int, group_nodes: int, on_gpus: bool) -> Sharding:
    """Return how a checked DeepSpeed JSON holds weights; None = plain replicas."""
    if ds_config is None:
        return Sharding("replica", on_gpus=on_gpus)
    zero = ds_config["zero_optimization"]
    offload = zero.get("offload_param") or {}
    device = offload.get("device", "none")
    buffers = offload.get("buffer_count", 5) * offload.get("buffer_size", 100_000_000)
    return Sharding(
        place="device" if device == "none" else device,
        group_size=group_size,
        group_nodes=group_nodes,
        on_gpus=on_gpus,
        pinned=bool(offload.get("pin_memory", False)),
        nvme_buffer_elements=buffers if device == "nvme" else 0,
        prefetch_elements=_number(zero, "stage3_prefetch_bucket_size", _PREFETCH_ELEMENTS),
        live_elements=_number(zero, "stage3_max_live_parameters", _LIVE_ELEMENTS),
    )


def shard_elements(shape: TypeShape, sharding: Sharding) -> int:
    """Return the weights that one rank holds of a model type."""
    return -(-shape.model_type.num_parameters // sharding.group_size)


def held_bytes(shape: TypeShape, sharding: Sharding, dtype_bytes: int, quantize: str) -> int:
    """Return the bytes of the weights that one rank holds of a model type.

    Args:
        shape: The model type.
        sharding: How weights are held.
        dtype_bytes: Of a weight that is not quantised.
        quantize: `backbone.quantize`: with 4 bits, the linears of the layers are half a byte and a scale each 64.
    """
    elements = shard_elements(shape, sharding)
    if quantize == NO_QUANTIZATION:
        return elements * dtype_bytes
    four_bits = shape.num_layers * sum(rows * columns for rows, columns in shape.model_type.linear_shapes.values())
    return (elements - four_bits) * dtype_bytes + round(four_bits * _FOUR_BIT_BYTES)


def ahead_elements(shape: TypeShape, sharding: Sharding) -> int:
    """Return the weights that are gathered at most at once: those at work and as many ahead as DeepSpeed may."""
    if not sharding.gathers:
        return 0
    largest = max(shape.embedding_elements, shape.layer_elements)
    return min(shape.model_type.num_parameters, sharding.prefetch_elements + largest, sharding.live_elements)


def late_elements(shape: TypeShape, sharding: Sharding) -> int:
    """Return the weights beyond embedding and shards that are in memory from the loss on, when layers were released.

    On CPUs a rank's own part once more, as was measured with gloo (docs/planning.md); on GPUs, where nothing was
    measured, what may be gathered ahead.
    """
    if sharding.on_gpus:
        return ahead_elements(shape, sharding)
    return shard_elements(shape, sharding) if sharding.gathers else 0


def _number(zero: Mapping[str, Any], name: str, default: int) -> int:
    given = zero.get(name, zero.get(name.removeprefix("stage3_"), default))
    return int(given) if isinstance(given, int | float) else default
