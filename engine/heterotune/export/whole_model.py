"""Write whole models as folders that transformers loads: the frozen base, or the base with an adapter merged in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from heterotune.backbone.load import DTYPES, read_model
from heterotune.errors import ExportError
from heterotune.export.run_adapter import RunAdapter
from heterotune.export.stacking import LM_HEAD, StackedSite
from heterotune.fleet.model_source import embedded_root
from heterotune.fleet.model_types import read_model_types
from heterotune.plain_files import MAX_JSON_BYTES, in_home, is_folder, is_plain_file, read_small_text

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja")


def write_base(folder: Path, adapter: RunAdapter, dtype: str, *, untie: bool) -> None:
    """Write the frozen model, with what the method added to it, and its tokenizer; a folder that has just that stays.

    Args:
        folder: Where to.
        adapter: Whose model.
        dtype: Of the weights.
        untie: Give it an output embedding of its own, with the same values. With peft 0.21 on tied embeddings and an
            adapter at the head, transformers' `tie_weights`, which lm_eval calls, ends with a KeyError.

    Raises:
        ExportError: If the folder holds anything else.
    """
    lm = _read(adapter, dtype)
    if untie and lm.config.tie_word_embeddings:
        lm = _untied(lm)
    _change(lm, adapter)
    if is_folder(folder) and any(folder.iterdir()):
        _check_is_this(folder, lm)
        return
    _write(folder, lm, adapter)


def write_merged(folder: Path, adapter: RunAdapter, sites: Mapping[str, StackedSite], dtype: str) -> None:
    """Write a whole model with the adapter in its weights; tied embeddings are untied where the head differs.

    Sums are computed in float64 on the weights that the run computed with, and rounded once, to `dtype`.

    Args:
        folder: Where to.
        adapter: Of the run; its dense differences are added.
        sites: Its branches; none has an activation, and what bias they have is left out: the caller's decision.
        dtype: fp32, bf16 or fp16.
    """
    lm = _read(adapter, adapter.dtype).float()
    if LM_HEAD in sites and lm.config.tie_word_embeddings:
        lm = _untied(lm)
    _change(lm, adapter)
    for path, site in sites.items():
        _add(lm.get_submodule(path).weight, site.difference_OI())
    for spec in adapter.layout.tensors:
        if spec.name in (*adapter.layout.dense, adapter.layout.output_embedding):
            inside = lm if spec.name.startswith(LM_HEAD) else lm.model
            _add(inside.get_parameter(spec.name), adapter.values[spec.name].double())
    _write(folder, lm.to(DTYPES[dtype]), adapter)


def _read(adapter: RunAdapter, dtype: str) -> PreTrainedModel:
    """Find the weights and read them as a run does, without progress bars."""
    transformers_logging.disable_progress_bar()
    entry = adapter.config.fleet[adapter.model_type.index].model_copy(update={"siblings_of": None, "layers": None})
    return read_model(read_model_types((entry,))[0], dtype)


def _change(lm: PreTrainedModel, adapter: RunAdapter) -> None:
    """Add what the method added to frozen weights."""
    for path, change in adapter.base_change.items():
        _add(lm.model.get_submodule(path).weight, change.double())


def _add(weight: nn.Parameter, difference: torch.Tensor) -> None:
    weight.data = (weight.data.double() + difference).to(weight.dtype)


def _untied(lm: PreTrainedModel) -> PreTrainedModel:
    """Return the model with an output embedding of its own, equal to the input embedding."""
    config = type(lm.config).from_dict({**lm.config.to_dict(), "tie_word_embeddings": False})
    with torch.device("meta"):
        untied = type(lm)(config)
    weights = {name: value.clone() if name == f"{LM_HEAD}.weight" else value for name, value in lm.state_dict().items()}
    untied.load_state_dict(weights, assign=True)
    return untied


def _write(folder: Path, lm: PreTrainedModel, adapter: RunAdapter) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _describe(lm).save_pretrained(folder)
    lm.generation_config.save_pretrained(folder)
    # Not `lm.save_pretrained`, which imports DeepSpeed where that is installed: seconds, and warnings on the terminal.
    save_torch_state_dict(_tensors(lm), folder)
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", file)  # safetensors makes files that nobody else may read
    source = _tokenizer_folder(adapter)
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if is_plain_file(file):
                shutil.copyfile(file, folder / file.name)


def _describe(lm: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration with what `AutoModelForCausalLM` needs of class and dtype."""
    lm.config.architectures, lm.config.dtype = [type(lm).__name__], lm.dtype
    return lm.config


def _tensors(lm: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what is written; tied embeddings once."""
    tensors = lm.state_dict()
    if lm.config.tie_word_embeddings:
        del tensors[f"{LM_HEAD}.weight"]
    return tensors


def _tokenizer_folder(adapter: RunAdapter) -> Path:
    """Return where the run's tokenizer is: what the run file names, or the folder of the model."""
    named, folder = adapter.config.data.tokenizer, adapter.model_type.source.folder
    if named is not None and is_folder(in_home(named)):
        return in_home(named)
    if named is not None and is_plain_file(in_home(named)):
        return in_home(named).parent
    is_embedded = folder is None or embedded_root() in folder.parents
    return embedded_root() if is_embedded else folder


def _check_is_this(folder: Path, lm: PreTrainedModel) -> None:
    """Several adapters may share one base folder. Its tensors are compared one by one; no second model is built."""
    try:
        config = json.loads(read_small_text(folder / "config.json", MAX_JSON_BYTES))
        wanted = json.loads(_describe(lm).to_json_string()).items()
        is_same = all(config.get(key) == value for key, value in wanted if key != "transformers_version")
        is_same &= _has_just_these(folder, lm)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise ExportError(f"{folder} is not empty and holds no model ({error}). Name another folder.") from error
    if not is_same:
        raise ExportError(f"{folder} holds another model than this run's base. Name another folder.")


def _has_just_these(folder: Path, lm: PreTrainedModel) -> bool:
    left = _tensors(lm)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as there:
            for name in there.keys():  # noqa: SIM118  # no mapping
                mine, theirs = left.pop(name, None), there.get_tensor(name)
                if mine is None or mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
                    return False
    return not left
