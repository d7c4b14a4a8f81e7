"""Load a model type's frozen LLaMA: one backbone per backbone group, however many clients use it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterotune.backbone.architecture import lm_on_meta, tie_head
from heterotune.backbone.block_reading import filled_blocks
from heterotune.backbone.frozen_lm import FrozenLM
from heterotune.backbone.groups import spell_ranks
from heterotune.backbone.mapped import map_model
from heterotune.backbone.quantized import quantize_linears
from heterotune.config.engine_options import NO_QUANTIZATION
from heterotune.fleet.model_types import ModelType

if TYPE_CHECKING:
    from heterotune.backbone.shard_group import ShardGroup

LOG = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Backbone:
    """A frozen LLaMA, ready to run.

    Attributes:
        model_type: Which one.
        lm: Call it like `FrozenLM`.
        device: Where it computes.
        in_lock_step: Ranks share it (ZeRO-3), so every rank of the group must make the same sequence of passes.
        mpi_ranks: The ranks that share this copy, in order; empty where none is shared.
        group: The same ranks as a process group; None where none is shared.
        is_mapped: Its weights are pages of files, which other ranks of the node may share.
    """

    model_type: ModelType
    lm: nn.Module
    device: torch.device
    in_lock_step: bool
    mpi_ranks: tuple[int, ...] = ()
    group: ShardGroup | None = None
    is_mapped: bool = False

    @property
    def llama(self) -> nn.Module:
        """The `LlamaModel` whose linears adapters attach to."""
        return self.lm.llama

    def any_rank(self, says: bool) -> bool:
        """Return whether any rank that shares this copy says so. All of these ranks must call this."""
        if self.group is None:
            return says
        from heterotune.backbone.shard_group import any_in_group

        return any_in_group(says, self.group)

    def output_embedding(self, tokens: Sequence[int] | None = None) -> Tensor:
        """Return a copy of the output embedding, or of its rows of some tokens, float32 on the CPU, shape (V, D).

        The group's ranks must call this.
        """
        weight, rows = self.lm.head.weight, slice(None) if tokens is None else list(tokens)
        if not self.in_lock_step:
            return weight.detach()[rows].float().cpu().clone()
        from heterotune.backbone.zero3 import gathered

        return gathered(weight)[rows].float()


def pick_dtype(choice: str) -> str:
    """Return the dtype that `auto` means here: bf16 on GPUs that have it, else fp32 (bf16 is slow on CPUs)."""
    if choice != "auto":
        return choice
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def load_backbone(
    model_type: ModelType,
    *,
    ds_config: dict[str, Any] | None,
    dtype: str,
    checkpointing: bool,
    device: torch.device,
    mapped: Sequence[Path] | None = None,
    quantize: str = NO_QUANTIZATION,
    group: ShardGroup | None = None,
) -> Backbone:
    """Load, freeze and (with a DeepSpeed configuration) shard a model. Every rank must call this, in fleet order.

    Args:
        model_type: What to load.
        ds_config: Checked DeepSpeed JSON, or None for a plain replica on every rank.
        dtype: fp32, bf16 or fp16.
        checkpointing: Recompute activations in the backward pass instead of keeping them.
        device: Where this rank computes.
        mapped: Files to map a plain replica from, see `mapped.py`; None reads the model into this rank's memory.
        quantize: 4-bit kind of a plain replica that is not mapped; see `read_model`.
        group: The ranks that share a sharded copy; None = all ranks of the job.

    Raises:
        ModelError: If the weights do not fit the configuration.
    """
    torch_dtype = DTYPES[dtype]
    if ds_config is None:
        if mapped is None:
            plain = read_model(model_type, dtype, quantize, device)
        else:
            plain = map_model(model_type.source, mapped, torch_dtype)
        is_mapped = mapped is not None and device.type == "cpu"
        lm = _frozen(plain, checkpointing).to(device)
        return Backbone(model_type, lm, device, in_lock_step=False, is_mapped=is_mapped)
    from heterotune.backbone import zero3
    from heterotune.backbone.shard_group import whole_job
    from heterotune.backbone.sharded_reading import read_sharded

    group = group or whole_job()
    ds_config = zero3.with_own_swap_folder(ds_config, model_type.name)
    lm = read_sharded(model_type, ds_config=ds_config, dtype=torch_dtype, device=device, group=group)
    sharded = zero3.shard(_frozen(lm, checkpointing), ds_config, torch_dtype, group)
    shard_bytes, sharing = zero3.shard_bytes(sharded), spell_ranks(group.mpi_ranks)
    LOG.info("backbone %s: %d bytes here of the copy of %s", model_type.name, shard_bytes, sharing)
    return Backbone(model_type, sharded, device, in_lock_step=True, mpi_ranks=group.mpi_ranks, group=group)


def _frozen(lm: PreTrainedModel, checkpointing: bool) -> FrozenLM:
    lm.requires_grad_(False)
    if checkpointing:
        lm.train()
        lm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        # transformers lets embeddings ask for a gradient, which would go back through layers without an adapter.
        lm.disable_input_require_grads()
    else:
        lm.eval()
    return FrozenLM(lm)


def read_model(
    model_type: ModelType, dtype: str, quantize: str = NO_QUANTIZATION, device: torch.device | None = None
) -> PreTrainedModel:
    """Read a model's weights into this rank's memory, or draw them if it is `random:`.

    Args:
        model_type: What to read.
        dtype: fp32, bf16 or fp16.
        quantize: none, or the 4-bit kind that the linears of the layers become, one layer after the other.
        device: Where 4-bit weights go; None = the CPU.

    Raises:
        ModelError: If its configuration is no LLaMA's, or a file can no longer be read.
    """
    lm = lm_on_meta(model_type.source, DTYPES[dtype])
    for name, block in filled_blocks(lm, model_type):
        if quantize != NO_QUANTIZATION and name.startswith("model.layers."):
            quantize_linears(block, quantize, device or torch.device("cpu"))
    tie_head(lm)
    return lm
