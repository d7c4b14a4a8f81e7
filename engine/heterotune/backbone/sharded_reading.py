"""Read or draw a model straight into ZeRO-3 shards: one block at a time is whole, and nothing else ever is.

Only the first rank of a backbone group reads weights; the others take them from it when DeepSpeed shards the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from heterotune.backbone import zero3
from heterotune.backbone.architecture import lm_on_meta, tie_head
from heterotune.backbone.block_reading import filled_blocks
from heterotune.backbone.heap import trim_heap
from heterotune.backbone.shard_group import ShardGroup
from heterotune.fleet.model_types import ModelType


def read_sharded(
    model_type: ModelType, *, ds_config: dict[str, Any], dtype: torch.dtype, device: torch.device, group: ShardGroup
) -> PreTrainedModel:
    """Return a model, its parameters partitioned over a group. Every rank of the group must call this.

    Args:
        model_type: What to read.
        ds_config: Checked DeepSpeed JSON.
        dtype: Weights are converted to it as they are read.
        device: Where this rank computes.
        group: The ranks that share the copy.

    Raises:
        ModelError: If its configuration is no LLaMA's, or a file can no longer be read.
    """
    lm = lm_on_meta(model_type.source, dtype)
    zero3.partition(_blocks(lm, model_type, reads=group.is_first), ds_config, dtype, group)
    tie_head(lm)
    lm.model.rotary_emb.to(device)
    return lm


def _blocks(lm: PreTrainedModel, model_type: ModelType, *, reads: bool) -> Iterator[nn.Module]:
    """Yield blocks. What a block took goes back before the next: its shards lie between what is free, and keep it."""
    for _, block in filled_blocks(lm, model_type, reads=reads):
        yield block
        trim_heap()
