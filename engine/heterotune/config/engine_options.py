"""Sections `backbone`, `chunk` and `collective` of a run file: how the engine holds, trains and moves a fleet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from heterotune.config.deepspeed_json import NO_DEEPSPEED
from heterotune.config.field_types import LARGEST_LIST, Count, Flag, Name, Section, Share, Text, TopologyName

NO_QUANTIZATION = "none"


class BackboneConfig(Section):
    """How the frozen LLaMAs are held in memory."""

    ds_config: Text = "zero3_cpu"
    """Name of a file in ds_configs/, a path to a DeepSpeed JSON, or "none" = a plain replica on every rank."""
    group: Literal["world", "node", "rank"] = "world"
    """MPI ranks that share one sharded copy of a backbone: all, those of a node, or each rank its own."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the backbone's weights; "auto" = fp32 on CPU, bf16 on GPU."""
    quantize: Literal["none", "nf4", "fp4"] = "none"
    """4-bit weights in the layers' linears, by bitsandbytes (extra `bnb`); needs ds_config: none. "none" = as dtype."""
    checkpointing: Flag = False
    """Recompute activations in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _check_group(self) -> BackboneConfig:
        """Replicas are not shared."""
        if self.ds_config == NO_DEEPSPEED and self.group != "world":
            text = (
                f"group = {self.group} shares sharded copies, but ds_config = {NO_DEEPSPEED} gives every rank a replica"
            )
            raise ValueError(f"{text}. Drop group, or name a DeepSpeed JSON such as zero3_cpu.")
        return self

    @model_validator(mode="after")
    def _check_quantize(self) -> BackboneConfig:
        """ZeRO-3 shards numbers, not 4-bit blocks with their scales."""
        if self.quantize != NO_QUANTIZATION and self.ds_config != NO_DEEPSPEED:
            text = f"quantize = {self.quantize} is for plain replicas, but ds_config = {self.ds_config} shards weights"
            raise ValueError(f"{text}. Set ds_config to {NO_DEEPSPEED}, or drop quantize.")
        return self


class ChunkConfig(Section):
    """Clients that train together in one pass over the backbone."""

    clients: Count | Literal["auto"] = "auto"
    """Clients per chunk, at least 1; "auto" = picked for each model type by a short measurement."""
    of_type: Annotated[dict[Name, Count], Field(max_length=LARGEST_LIST)] = {}
    """Clients per chunk of single model types, instead of `clients`; config.yaml of a run says what "auto" picked."""
    max_clients: Count = 32
    """Largest chunk that "auto" may pick, at least 1."""


class CollectiveConfig(Section):
    """How updates travel."""

    topology: TopologyName = "root"
    """Where updates are combined: "root" = on MPI rank 0; "sharded" = every rank a slice of them, the same bits."""
    wire: Literal["fp32", "bf16", "int8", "topk"] = "fp32"
    """Number format of an update on its way up; see docs/ledger.md for what each loses."""
    wire_down: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format of the common values on their way down; "auto" = bf16 where `wire` is bf16, else fp32."""
    topk_share: Share = 0.01
    """Share of a tensor group's elements that `wire: topk` sends, above 0 and at most 1; at least one element."""

    @property
    def picked_wire_down(self) -> str:
        """The number format down, "auto" replaced by what it means."""
        if self.wire_down != "auto":
            return self.wire_down
        return "bf16" if self.wire == "bf16" else "fp32"
