"""An existing PEFT LoRA as the starting point of a model type's shared LoRA: `fleet[].adapter` of a run file.

Checking it reads adapter_config.json and the header of adapter_model.safetensors; neither torch nor peft is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from heterotune.adapters.layout import AdapterLayout, Branch
from heterotune.config.explain import shown
from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.plain_files import MAX_JSON_BYTES, in_home, is_plain_file, read_small_text

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.model\.(?P<module>.+)\.lora_(?P<letter>[AB])\.weight")
_REFUSED = {
    "use_rslora": "scales by alpha / sqrt(rank)",
    "use_dora": "trains the weights' magnitudes, too",
    "lora_bias": "has biases",
    "modules_to_save": "brings whole modules",
    "trainable_token_indices": "brings token embeddings",
    "target_parameters": "adapts bare parameters",
    "layer_replication": "repeats layers",
    "fan_in_fan_out": "is for transposed weights",
}
"""What a file may say that a plain LoRA is not, and what that means."""
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin (`init_lora_weights`) that take something out of the frozen weights."""


@dataclass(frozen=True)
class Site:
    """One LoRA of a file: its rank and the shape of the weight that it is beside."""

    adapter_rank: int
    d_out: int
    d_in: int
    scale: float


def check_start(entry: FleetEntry, where: str, layout: AdapterLayout, section: str) -> list[str]:
    """Return what keeps an entry's adapter from being the start of a layout's shared LoRA, and what to set.

    Args:
        entry: Of the fleet, with an adapter.
        where: Its place in the run file, like "fleet.0".
        layout: The model type's adapter under one strategy.
        section: That strategy, which is also the section of its options.
    """
    before = f"{where}.adapter = {shown(entry.adapter)}"
    try:
        branches = shared_branches(layout, section)
        sites = _read_sites(in_home(entry.adapter))
    except ModelError as error:
        return [f"{before}: {error}"]
    return [f"{before}: {problem}" for problem in _differences(sites, branches, layout, where, section)]


def start_sha256(entry: FleetEntry) -> str:
    """Return the SHA-256 of an entry's adapter_model.safetensors."""
    with open(in_home(entry.adapter) / WEIGHTS_FILE, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_starts(fleet: Sequence[FleetEntry], layouts: Sequence[AdapterLayout], section: str) -> dict[str, Tensor]:
    """Read the first values of all shared tensors that the fleet's adapters give.

    Args:
        fleet: Those with `adapter`, others are passed over.
        layouts: Of every entry, in its order.
        section: The strategy.

    Returns:
        Key -> float32 value on the CPU.

    Raises:
        ModelError: If a file is not what it was when the run was checked, does not fit, or two give one tensor
            different values.
    """
    values: dict[str, Tensor] = {}
    for number, (entry, layout) in enumerate(zip(fleet, layouts, strict=True)):
        if entry.adapter is None:
            continue
        where = f"fleet.{number}"
        if problems := check_start(entry, where, layout, section):
            raise ModelError("\n".join(problems))
        if entry.adapter_sha256 not in (None, found := start_sha256(entry)):
            told = f"{WEIGHTS_FILE} has SHA-256 {found[:12]}..., and {entry.adapter_sha256[:12]}... was written down"
            raise ModelError(
                f"{where}.adapter = {entry.adapter}: {told}. Bring that file back, or drop adapter_sha256."
            )
        _take(values, _read_values(in_home(entry.adapter), layout, section), f"{where}.adapter = {entry.adapter}")
    return values


def shared_branches(layout: AdapterLayout, section: str) -> dict[str, Branch]:
    """Return module -> the one LoRA that clients share there.

    Raises:
        ModelError: If there is none, or not just one.
    """
    travelling = {spec.name for spec in layout.travelling if spec.window is None and not spec.redrawn}
    shared = [branch for branch in layout.branches if {branch.down, branch.up} <= travelling]
    if not shared:
        raise ModelError(f"strategy {section} shares no whole LoRA that it could start. Leave adapter out.")
    if any(branch.activation != "none" for branch in shared):
        raise ModelError(f"branches with an activation are no LoRA. Set {section}.activation to none.")
    by_module = {branch.module: branch for branch in shared}
    if len(by_module) < len(shared):
        raise ModelError(f"the LoRA of a layer is in two parts here. Set {section}.lora_scope to width or type.")
    return by_module


def _read_sites(folder: Path) -> dict[str, Site]:
    """Return module in `LlamaModel` -> its LoRA, by configuration and header."""
    config = _read_config(folder)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in _read_header(folder).items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ModelError(f"{WEIGHTS_FILE} holds {shown(name)}, which is no LoRA of a layer's linear. Remove it.")
        shapes.setdefault(match["module"], {})[match["letter"]] = shape
    sites = {}
    for module, pair in shapes.items():
        if set(pair) != {"A", "B"} or any(len(shape) != 2 for shape in pair.values()) or pair["A"][0] != pair["B"][1]:
            raise ModelError(f"{WEIGHTS_FILE}: A and B of {module} do not fit together. Write the adapter again.")
        alpha = _of_pattern(config, "alpha_pattern", module, config.get("lora_alpha"))
        if type(alpha) not in (int, float) or alpha <= 0:
            raise ModelError(f"{CONFIG_FILE}: lora_alpha = {shown(alpha)} is no number above 0. Write it again.")
        adapter_rank = pair["A"][0]
        sites[module] = Site(adapter_rank, pair["B"][0], pair["A"][1], alpha / adapter_rank)
    return sites


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(read_small_text(folder / CONFIG_FILE, MAX_JSON_BYTES))
    except OSError as error:
        raise ModelError(f"{CONFIG_FILE} cannot be read there ({error.strerror}). Name a PEFT LoRA's folder.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{CONFIG_FILE} is not readable JSON ({error}). Name a PEFT LoRA's folder.") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ModelError(f"peft_type is {shown(kind)}. Only a LORA can start the shared LoRA.")
    refused = [f"{key} = {shown(config[key])} {why}" for key, why in _REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        refused.append(f"bias = {shown(config['bias'])} trains the model's biases")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_THE_BASE):
        refused.append(f"init_lora_weights = {shown(config['init_lora_weights'])} belongs to changed frozen weights")
    if refused:
        raise ModelError(
            f"it is no plain LoRA: {'; '.join(refused)}. Give one without (`heterotune export` writes "
            "one with --without-head)."
        )
    return config


def _read_header(folder: Path) -> dict[str, tuple[int, ...]]:
    file = folder / WEIGHTS_FILE
    if not is_plain_file(file):
        raise ModelError(f"{WEIGHTS_FILE} is missing there. Save the adapter with safetensors.")
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{WEIGHTS_FILE} cannot be read ({error}). Write the adapter again.") from None


def _of_pattern(config: Mapping[str, Any], pattern: str, module: str, usual: Any) -> Any:
    """Return what PEFT takes for a module: patterns are regular expressions on the end of its name."""
    patterns = config.get(pattern) or {}
    for key, number in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.match(rf"(.*\.)?({key})$", f"model.{module}"):
                return number
        except re.error:
            raise ModelError(f"{CONFIG_FILE}: {pattern} has no regular expression in {shown(key)}.") from None
    return usual


def _differences(
    sites: Mapping[str, Site], branches: Mapping[str, Branch], layout: AdapterLayout, where: str, section: str
) -> list[str]:
    """Compare a file's LoRAs with the run's; the first kind of difference is told, with what to set."""
    shapes = {spec.name: spec.shape for spec in layout.tensors}
    theirs, mine = ({path.rpartition(".")[2] for path in paths} for paths in (sites, branches))
    if theirs != mine:
        told = f"it adapts {', '.join(sorted(theirs))}, and the run {', '.join(sorted(mine))}"
        return [f"{told}. Set {section}.targets to [{', '.join(sorted(theirs))}]."]
    if sites.keys() != branches.keys():
        path = min(sites.keys() ^ branches.keys())
        who = "it" if path in sites else "the run"
        return [f"only {who} adapts {path}. Give an adapter that was made for this model, in all of its layers."]
    problems = {}
    for path, site in sites.items():
        (d_out, adapter_rank), (_, d_in) = shapes[branches[path].up], shapes[branches[path].down]
        if (site.d_out, site.d_in) != (d_out, d_in):
            told = f"it is made for a {path} of {site.d_out} x {site.d_in}, and this model's is {d_out} x {d_in}"
            problems.setdefault("shape", f"{told}. Give an adapter that was made for this model.")
        elif site.adapter_rank != adapter_rank:
            told = f"it has rank {site.adapter_rank} at {path}, and the run {adapter_rank}"
            problems.setdefault("rank", f"{told}. Set {where}.adapter_rank to {site.adapter_rank}.")
        elif abs(site.scale - branches[path].scale) > 1e-9 * site.scale:
            told = f"it is scaled by {site.scale:g} at {path}, and the run by {branches[path].scale:g}"
            wanted = site.scale * adapter_rank
            problems.setdefault("scale", f"{told}. Set {section}.adapter_alpha to {wanted:g}.")
    return list(problems.values())


def _read_values(folder: Path, layout: AdapterLayout, section: str) -> dict[str, Tensor]:
    """Return key -> value of every tensor that a file gives."""
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS_FILE)
    keys = {spec.name: spec.key for spec in layout.tensors}
    values = {}
    for module, branch in shared_branches(layout, section).items():
        for letter, name in (("A", branch.down), ("B", branch.up)):
            values[keys[name]] = tensors[f"base_model.model.model.{module}.lora_{letter}.weight"].float().contiguous()
    return values


def _take(values: dict[str, Tensor], new: Mapping[str, Tensor], who: str) -> None:
    """Add values; siblings share tensors, and what two of them give must be the same."""
    for key, value in new.items():
        if not value.isfinite().all():
            raise ModelError(f"{who}: {key} is not finite. Give another adapter.")
        if not values.setdefault(key, value).equal(value):
            raise ModelError(f"{who} and a sibling's adapter differ in {key}, which they share. Give one of them.")
