"""One read-only copy of a plain backbone for all ranks of a node: weights are mapped from a file, not read into memory.

The operating system keeps one copy of a mapped file's pages, however many processes map it, so the node's memory (PSS)
stays one backbone for any number of ranks.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from heterotune.errors import ModelError
from heterotune.fleet.model_source import ModelSource


def mappable_file(source: ModelSource, dtype: torch.dtype) -> Path | None:
    """Return the model's own file if it can be mapped as it is: one file, in this dtype, under today's names."""
    files = sorted(source.folder.glob("*.safetensors")) if source.folder is not None else []
    if len(files) != 1:
        return None
    with torch.device("meta"):
        wanted = set(model_on_meta(source, dtype).state_dict())
    if source.llama.get("tie_word_embeddings", False):
        wanted.discard("lm_head.weight")
    try:
        with safe_open(files[0], framework="pt") as file:
            names = set(file.keys())
            same_dtype = all(_DTYPE_NAMES.get(file.get_slice(name).get_dtype()) == dtype for name in names)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{source.reference}: the weights in {files[0]} cannot be loaded ({error}).") from error
    return files[0] if wanted <= names and same_dtype else None


def write_mappable(lm: LlamaForCausalLM, path: Path) -> None:
    """Write a loaded model so that it can be mapped. One rank of a node does this, the others wait."""
    tensors = {name: value.contiguous() for name, value in lm.state_dict().items()}
    if lm.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def give_back_memory() -> None:
    """Return what a loaded and dropped model has left in this process's heap to the system, where glibc can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_model(source: ModelSource, path: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model whose weights are pages of the file. They must not be written to.

    Args:
        source: Says the shape.
        path: From `mappable_file` or `write_mappable`.
        dtype: That of the file.

    Raises:
        ModelError: If the weights are damaged or do not fit the configuration.
    """
    with torch.device("meta"):
        lm = model_on_meta(source, dtype)
    try:
        lm.load_state_dict(load_file(path), strict=False, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's for a shape that differs
        raise ModelError(f"{source.reference}: the weights in {path} cannot be loaded ({error}).") from error
    if lm.config.tie_word_embeddings:
        lm.lm_head.weight = lm.model.embed_tokens.weight
    lm.model.rotary_emb = LlamaRotaryEmbedding(lm.config)  # its buffer is computed, not stored
    assert not any(tensor.is_meta for tensor in (*lm.parameters(), *lm.buffers()))
    return lm


def llama_config(source: ModelSource) -> LlamaConfig:
    """Return a model's configuration, without what names code to fetch or to run.

    Raises:
        ModelError: If it is none of a LLaMA.
    """
    fields = {key: value for key, value in source.llama.items() if key not in _NEVER_TAKEN and not key.startswith("_")}
    try:
        return LlamaConfig(**fields)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        told = " ".join(str(error).split())
        raise ModelError(f"{source.reference}: its config.json is no LLaMA's ({told}).") from error


def model_on_meta(source: ModelSource, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model without memory for its weights. Call it on the meta device."""
    config = llama_config(source)
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).to(dtype)


_NEVER_TAKEN = ("model_type", "auto_map", "custom_pipelines", "attn_implementation", "quantization_config")
_DTYPE_NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
