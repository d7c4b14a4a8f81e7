"""Read a checkpoint straight into ZeRO-3 shards: one block of the model at a time is whole, and nothing else ever is.

Only the first rank of a backbone group reads weights; the others take them from it when DeepSpeed shards the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from heterotune.backbone import zero3
from heterotune.backbone.mapped import model_on_meta
from heterotune.backbone.shard_group import ShardGroup
from heterotune.errors import ModelError
from heterotune.fleet.model_types import ModelType


def read_sharded(
    model_type: ModelType, *, ds_config: dict[str, Any], dtype: torch.dtype, device: torch.device, group: ShardGroup
) -> LlamaForCausalLM:
    """Return a model of a folder, its parameters partitioned over a group. Every rank of the group must call this.

    Args:
        model_type: Its source has a folder.
        ds_config: Checked DeepSpeed JSON.
        dtype: Weights are converted to it as they are read.
        device: Where this rank computes.
        group: The ranks that share the copy.

    Raises:
        ModelError: If weights are missing or do not fit the configuration; on every rank alike, before any is read.
    """
    with torch.device("meta"):
        lm = model_on_meta(model_type.source, dtype)
    is_tied = lm.config.tie_word_embeddings
    wanted = {name: value for name, value in lm.state_dict().items() if not (is_tied and name == "lm_head.weight")}
    stored = _find_weights(model_type, wanted)
    zero3.partition(_filled_blocks(lm, stored, reads=group.is_first), ds_config, dtype, group)
    if is_tied:
        lm.lm_head.weight = lm.model.embed_tokens.weight
    lm.model.rotary_emb = LlamaRotaryEmbedding(lm.config).to(device)  # its buffer is computed, not stored
    return lm


@dataclass(frozen=True)
class _Stored:
    """Where a weight is."""

    path: Path
    name: str

    def read(self, dtype: torch.dtype) -> Tensor:
        """Return it in memory of its own, not in the file's pages, which would stay as long as one shard of them."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.name).to(dtype, copy=True)


def _find_weights(model_type: ModelType, wanted: Mapping[str, Tensor]) -> dict[str, _Stored]:
    """Return where every wanted weight is, after a look at names and shapes."""
    folder = model_type.source.folder
    assert folder is not None
    found: dict[str, _Stored] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            for name, like in wanted.items():
                stored = next((each for each in (name, name.removeprefix("model.")) if each in shapes), None)
                if stored is None:
                    continue
                if shapes[stored] != tuple(like.shape):
                    differs = f"{stored} is {shapes[stored]}, config.json says {tuple(like.shape)}"
                    raise ModelError(f"{model_type.name}: the weights in {folder} cannot be loaded ({differs}).")
                found[name] = _Stored(path, stored)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{model_type.name}: the weights in {folder} cannot be loaded ({error}).") from error
    if missing := [name for name in wanted if name not in found]:
        raise ModelError(f"{model_type.name}: {folder} lacks the weights {', '.join(missing[:4])} ...")
    return found


def _filled_blocks(lm: LlamaForCausalLM, stored: Mapping[str, _Stored], *, reads: bool) -> Iterator[nn.Module]:
    """Give memory to one block of the model after the other, with its weights where this rank reads."""
    blocks = {"model.embed_tokens": lm.model.embed_tokens}
    blocks |= {f"model.layers.{number}": layer for number, layer in enumerate(lm.model.layers)}
    blocks |= {"model.norm": lm.model.norm, "lm_head": lm.lm_head}
    for prefix, block in blocks.items():
        likes = {name: like for name, like in block.state_dict().items() if f"{prefix}.{name}" in stored}
        if likes:  # a tied head has no weights of its own
            block.load_state_dict(
                {
                    name: stored[f"{prefix}.{name}"].read(like.dtype) if reads else torch.empty_like(like, device="cpu")
                    for name, like in likes.items()
                },
                assign=True,
            )
            yield block
