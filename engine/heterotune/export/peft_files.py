"""Write stacked branches as a PEFT adapter: adapter_config.json and adapter_model.safetensors. Needs no peft."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from heterotune.adapters.peft_start import CONFIG_FILE, WEIGHTS_FILE
from heterotune.export.stacking import StackedSite
from heterotune.fleet.model_types import ALL_LINEARS, ModelType, linear_path

DEMA_TYPE = "DEMA"
"""PEFT's name of branches with an activation; `heterotune.peft_dema` registers it."""


def write_peft_adapter(
    folder: Path, sites: Mapping[str, StackedSite], model_type: ModelType, base: str, dtype: torch.dtype
) -> None:
    """Write an adapter that `PeftModel.from_pretrained` reads.

    It is a stock LoRA if no branch has an activation. PEFT's `lora_bias` is one flag for all modules, so where the head
    has a bias the others get one of zeros.

    Args:
        folder: Exists.
        sites: Path in `LlamaForCausalLM` -> the LoRA there; at least one.
        model_type: Whose adapter; says which modules there are.
        base: What `base_model_name_or_path` is to say.
        dtype: Of the tensors.
    """
    is_lora = all(site.activation == "none" for site in sites.values())
    has_bias = any(site.bias_O is not None for site in sites.values())
    config = {**_common(sites, model_type, base), **(_lora_only(has_bias) if is_lora else _dema_only(sites))}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    letter, tensors = "lora" if is_lora else "dema", {}
    for path, site in sites.items():
        before = f"base_model.model.{path}.{letter}"
        tensors[f"{before}_A.weight"], tensors[f"{before}_B.weight"] = site.down_rI, site.up_Or
        if site.bias_O is not None or (is_lora and has_bias):
            tensors[f"{before}_B.bias"] = _bias_in_units_of_scale(site)
    whole = {name: value.to(dtype).contiguous().clone() for name, value in sorted(tensors.items())}
    save_file(whole, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)  # safetensors makes files that nobody else may read


def _bias_in_units_of_scale(site: StackedSite) -> Tensor:
    """PEFT scales the bias with the rest of the branch."""
    if site.bias_O is None:
        return torch.zeros(site.up_Or.shape[0])
    return (site.bias_O.double() * (site.adapter_rank / site.alpha)).float()


def _common(sites: Mapping[str, StackedSite], model_type: ModelType, base: str) -> dict[str, Any]:
    adapter_rank, rank_pattern = _usual({path: site.adapter_rank for path, site in sites.items()}, model_type)
    alpha, alpha_pattern = _usual({path: _plain(site.alpha) for path, site in sites.items()}, model_type)
    return {
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "target_modules": _names(sites, model_type),
        "r": adapter_rank,
        "rank_pattern": rank_pattern,
        "lora_alpha": alpha,
        "alpha_pattern": alpha_pattern,
    }


def _lora_only(has_bias: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "lora_bias": has_bias,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _dema_only(sites: Mapping[str, StackedSite]) -> dict[str, Any]:
    return {
        "peft_type": DEMA_TYPE,
        "activation": next(site.activation for site in sites.values() if site.activation != "none"),
        "linear_modules": [path for path, site in sites.items() if site.activation == "none"],
        "bias_modules": [path for path, site in sites.items() if site.bias_O is not None],
    }


def _usual(numbers: Mapping[str, Any], model_type: ModelType) -> tuple[Any, dict[str, Any]]:
    """Return the most frequent number, and module name -> number for the others."""
    usual = Counter(numbers.values()).most_common(1)[0][0]
    others: dict[str, Any] = {}
    for number in dict.fromkeys(numbers.values()):
        if number != usual:
            paths = [path for path, mine in numbers.items() if mine == number]
            others |= dict.fromkeys(_names(paths, model_type), number)
    return usual, others


def _names(paths: Iterable[str], model_type: ModelType) -> list[str]:
    """Return names that PEFT matches with exactly these modules: of a linear that is in all layers its name alone."""
    left, names = set(paths), []
    for linear in ALL_LINEARS:
        everywhere = {f"model.{linear_path(layer, linear)}" for layer in range(model_type.num_layers)}
        if everywhere <= left:
            left -= everywhere
            names.append(linear)
    return names + sorted(left)


def _plain(number: float) -> float | int:
    """Return 16 for 16.0, as people write it."""
    return int(number) if float(number).is_integer() else number
