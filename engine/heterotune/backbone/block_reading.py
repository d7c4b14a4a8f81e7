"""A model's weights, one block after the other: from a checkpoint's files, or drawn. No more than a block is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterotune.backbone.architecture import blocks
from heterotune.backbone.random_weights import RandomWeights
from heterotune.errors import ModelError
from heterotune.fleet.checkpoint_files import StoredWeight
from heterotune.fleet.model_types import ModelType

_PIECE_BYTES = 16 * 2**20

Fill = Callable[[str, nn.Module], None]


def filled_blocks(lm: PreTrainedModel, model_type: ModelType, *, reads: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Give memory to one block of a model after the other, and yield it with its name.

    Args:
        lm: From `lm_on_meta`. Its blocks change.
        model_type: Where the weights are.
        reads: Whether values count here; without, the memory is left as it is.

    Raises:
        ModelError: If a file can no longer be read.
    """
    fill = _fill(lm, model_type) if reads else _empty
    for name, block in blocks(lm).items():
        fill(name, block)
        yield name, block


def _fill(lm: PreTrainedModel, model_type: ModelType) -> Fill:
    source = model_type.source
    if source.folder is None:
        return RandomWeights(lm, source.random_seed or 0).fill
    return lambda name, block: _read_block(name, block, model_type)


def _empty(name: str, block: nn.Module) -> None:
    block.to_empty(device="cpu")


def _read_block(block_name: str, block: nn.Module, model_type: ModelType) -> None:
    stored = model_type.source.weights
    try:
        block.load_state_dict(
            {name: _read(stored, f"{block_name}.{name}", like.dtype) for name, like in block.state_dict().items()},
            assign=True,
        )
    except (OSError, SafetensorError) as error:  # it was there when the run was checked
        where = f"the weights in {model_type.source.folder}"
        raise ModelError(f"{model_type.name}: {where} cannot be loaded ({error}).") from error


def _read(stored: Mapping[str, StoredWeight], name: str, dtype: torch.dtype) -> Tensor:
    """Return a weight in memory of its own, not in the file's pages, which would stay as long as one shard of them.

    A few rows at a time, so that no weight is there twice.
    """
    weight = stored[name]
    read = torch.empty(weight.shape, dtype=dtype)
    num_rows = max(1, _PIECE_BYTES * weight.shape[0] // read.nbytes)
    for first in range(0, weight.shape[0], num_rows):
        rows = slice(first, first + num_rows)
        read[rows] = _piece(weight, rows)
    return read


def _piece(weight: StoredWeight, rows: slice) -> Tensor:
    """Map some rows. The file is opened for them alone: pages count as this process's as long as it is open."""
    with safe_open(weight.path, framework="pt") as file:
        return file.get_slice(weight.name)[rows]
