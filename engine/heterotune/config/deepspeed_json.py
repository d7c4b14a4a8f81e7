"""Read the DeepSpeed JSON of a run. DeepSpeed ignores misspelt keys without a word, so they are refused here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from heterotune.config import deepspeed_keys as keys
from heterotune.config.explain import shown
from heterotune.config.nearest import suggestion
from heterotune.errors import ConfigError
from heterotune.plain_files import MAX_JSON_BYTES, read_small_text, shipped_places

NO_DEEPSPEED = "none"
_MOST_KEYS = 200

_FOLDERS = shipped_places("ds_configs", "ds_configs")

_WANTED = {
    "flag": "true or false",
    "count": "an integer of at least 0",
    "path": "a path in quotes",
    "device": f"one of {', '.join(keys.OFFLOAD_DEVICES)}",
}


def ds_config_names() -> tuple[str, ...]:
    """Return the names in ds_configs/, sorted, without ".json"."""
    return tuple(sorted(_files()))


def read_ds_config(name_or_path: str) -> dict[str, Any]:
    """Read and check what DeepSpeed alone decides.

    Args:
        name_or_path: A name in ds_configs/, or a path that ends in ".json" or has a folder in it. Not "none", which
            means that there is no DeepSpeed to configure.

    Returns:
        A new dict; the run's own keys (batch sizes, precision, clipping) are still to be added by the caller.

    Raises:
        ConfigError: With every problem: unknown keys, keys that the run owns or that have no effect, wrong values.
    """
    path = _find(name_or_path)
    config = _parse(path)
    problems = _key_problems(config) + _zero_problems(config.get("zero_optimization"))
    problems += _table_problems("aio", config.get("aio", {}), keys.AIO_KEYS)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config


def _files() -> dict[str, Path]:
    """Name -> file; the package's own folder wins."""
    return {path.stem: path for folder in reversed(_FOLDERS) for path in folder.glob("*.json")}


def _find(name_or_path: str) -> Path:
    """Tell a name from a path."""
    if name_or_path == NO_DEEPSPEED:
        raise ConfigError(['"none" means a run without DeepSpeed. There is no JSON to read for it.'])
    if name_or_path.endswith(".json") or "/" in name_or_path:
        return Path(name_or_path)
    files = _files()
    if name_or_path not in files:
        told = suggestion(name_or_path, [*files, NO_DEEPSPEED])
        raise ConfigError([f"{name_or_path} is not in ds_configs. {told} A path must end in .json."])
    return files[name_or_path]


def _parse(path: Path) -> dict[str, Any]:
    """Read the JSON object, refusing repeated keys and what JSON does not know."""
    repeated: list[str] = []

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
        return dict(pairs)

    try:
        config = json.loads(read_small_text(path, MAX_JSON_BYTES), object_pairs_hook=unrepeated)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}). Check the path."]) from None
    except json.JSONDecodeError as error:
        text = f"{path}, line {error.lineno}, column {error.colno}: not readable as JSON: {error.msg}"
        raise ConfigError([f"{text}. Correct the text there."]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: not readable as JSON: {error}. Correct the file."]) from None
    if repeated:
        raise ConfigError([f"{path}: the key {key} is given twice. Keep one of the two." for key in repeated])
    if not isinstance(config, dict):
        raise ConfigError([f"{path}: not a JSON object. Start from a copy of a file in ds_configs."])
    return config


def _key_problems(config: Mapping[str, Any]) -> list[str]:
    """Check the names at the top level."""
    problems = []
    for key in islice(config, _MOST_KEYS):
        if key in keys.OWNED_KEYS:
            problems.append(f"{key} is set by the run. Remove it here; use {keys.OWNED_KEYS[key]} in the run file.")
        elif key in keys.KEYS_WITHOUT_EFFECT:
            problems.append(f"{key} has no effect on a frozen backbone. Remove it.")
        elif key not in keys.USABLE_KEYS:
            told = suggestion(key, keys.USABLE_KEYS)
            problems.append(f"{key} is not a key of DeepSpeed {keys.DEEPSPEED_VERSION}. {told}")
    return _too_many("the file", config) + problems


def _zero_problems(zero: Any) -> list[str]:
    """Check the section that shards and offloads the backbone."""
    if not isinstance(zero, dict):
        return ["zero_optimization is missing or no object. Give it at least stage: 3, or use ds_config: none."]
    problems = [
        f"zero_optimization.{key} has no effect on a frozen backbone. Remove it."
        for key in zero
        if key in keys.ZERO_KEYS_WITHOUT_EFFECT
    ]
    rest = {key: value for key, value in zero.items() if key not in keys.ZERO_KEYS_WITHOUT_EFFECT}
    problems += _table_problems("zero_optimization", rest, keys.ZERO_KEYS)
    if zero.get("stage") != 3:
        text = f"zero_optimization.stage = {shown(zero.get('stage'))} does not shard the backbone"
        problems.append(f"{text}. Set it to 3, or use ds_config: none for plain replicas.")
    offload = zero.get("offload_param", {})
    problems += _table_problems("zero_optimization.offload_param", offload, keys.OFFLOAD_PARAM_KEYS)
    if isinstance(offload, dict) and offload.get("device") == "nvme" and "nvme_path" not in offload:
        problems.append("zero_optimization.offload_param.nvme_path is missing. Name a folder on the NVMe drive.")
    return problems


def _table_problems(where: str, table: Any, kinds: Mapping[str, str]) -> list[str]:
    """Check names and values of one object."""
    if not isinstance(table, dict):
        return [f"{where} = {shown(table)} is not an object. Write {{...}}."]
    problems = []
    for key, value in islice(table.items(), _MOST_KEYS):
        if key not in kinds:
            told = suggestion(key, kinds)
            problems.append(f"{where}.{key} is not a key of DeepSpeed {keys.DEEPSPEED_VERSION}. {told}")
        elif not _fits(value, kinds[key]):
            problems.append(f"{where}.{key} = {shown(value)} is not {_WANTED[kinds[key]]}. Correct it.")
    return _too_many(where, table) + problems


def _too_many(where: str, table: Mapping[str, Any]) -> list[str]:
    """Say that an object has more keys than are looked at: DeepSpeed knows far fewer."""
    return [f"{where} has {len(table)} keys. DeepSpeed knows fewer."] if len(table) > _MOST_KEYS else []


def _fits(value: Any, kind: str) -> bool:
    """Tell whether a value is of its key's kind."""
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "count":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and 0 <= value < 2**63 and value == int(value)
    if kind == "path":
        return isinstance(value, str) and value != ""
    # A wrong "table" is told by the check of its own keys.
    return kind in ("any", "table") or (isinstance(value, str) and value in keys.OFFLOAD_DEVICES)
