"""One read-only copy of a plain backbone for all ranks of a node: weights are mapped from files, not read into memory.

The operating system keeps one copy of a mapped file's pages, however many processes map it, so the node's memory (PSS)
stays one backbone for any number of ranks.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from heterotune.backbone.architecture import lm_on_meta, tie_head
from heterotune.backbone.block_reading import filled_blocks
from heterotune.backbone.heap import trim_heap
from heterotune.errors import ModelError
from heterotune.fleet.model_source import ModelSource
from heterotune.fleet.model_types import ModelType

_STORED_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def mappable_files(source: ModelSource, dtype: torch.dtype) -> tuple[Path, ...] | None:
    """Return a checkpoint's own files if they can be mapped as they are: in this dtype, under today's names.

    Args:
        source: A model type's.
        dtype: Of the backbone.
    """
    fits = all(weight.dtype == _STORED_DTYPES[dtype] and weight.name == name for name, weight in source.weights.items())
    return tuple(sorted({weight.path for weight in source.weights.values()})) if source.weights and fits else None


def write_mappable(model_type: ModelType, dtype: torch.dtype, folder: Path) -> None:
    """Write a model as files that can be mapped, a block each; only one block is in memory at a time.

    One rank of a job does this, the others wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lm = lm_on_meta(model_type.source, dtype)
    for name, block in filled_blocks(lm, model_type):
        tensors = {f"{name}.{key}": value.contiguous() for key, value in block.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
        block.to("meta")


def written_files(folder: Path) -> tuple[Path, ...]:
    """Return what `write_mappable` wrote."""
    return tuple(sorted(folder.glob("*.safetensors")))


def give_back_memory() -> None:
    """Return what a loaded and dropped model has left in this process's heap to the system, where glibc can."""
    gc.collect()
    trim_heap()


def map_model(source: ModelSource, paths: Sequence[Path], dtype: torch.dtype) -> PreTrainedModel:
    """Return a model whose weights are pages of files. They must not be written to.

    Args:
        source: Says the shape.
        paths: From `mappable_files` or `written_files`.
        dtype: That of the files.

    Raises:
        ModelError: If the weights are damaged or do not fit the configuration.
    """
    lm = lm_on_meta(source, dtype)
    for path in paths:
        try:
            lm.load_state_dict(load_file(path), strict=False, assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch's for a shape that differs
            raise ModelError(f"{source.reference}: the weights in {path} cannot be loaded ({error}).") from error
    tie_head(lm)
    assert not any(tensor.is_meta for tensor in (*lm.parameters(), *lm.buffers()))
    return lm
