"""The weights of a checkpoint folder, by name, shape and type: read from the files' headers, no weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heterotune.config.explain import shown
from heterotune.errors import ModelError
from heterotune.plain_files import MAX_JSON_BYTES, is_plain_file, read_small_text

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_READABLE_DTYPES = ("F64", "F32", "BF16", "F16")
_PICKLED = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_NAMED = 4  # weights in a message


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight is, and what its file says about it.

    Attributes:
        path: A safetensors file.
        name: In that file.
        shape: Of the weight.
        dtype: As safetensors spells it: F32, BF16, F16 or F64.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_stored_weights(reference: str, folder: Path) -> dict[str, StoredWeight]:
    """Return every weight of a checkpoint under the name that its file gives it.

    Args:
        reference: The model, for messages.
        folder: Holds model.safetensors, or the files that model.safetensors.index.json names.

    Raises:
        ModelError: If there are no such files, one is missing or damaged, or is no regular file.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, StoredWeight] = {}
    for path in weight_files(reference, folder):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():
                    about = file.get_slice(name)
                    weights[name] = StoredWeight(path, name, tuple(about.get_shape()), about.get_dtype())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{reference}: the weights in {path} cannot be loaded ({error}).") from error
    return weights


def weight_files(reference: str, folder: Path) -> tuple[Path, ...]:
    """Return the files that hold a checkpoint's weights, by transformers' rule.

    Raises:
        ModelError: As `read_stored_weights`.
    """
    names = [SINGLE_FILE]
    if not (folder / SINGLE_FILE).exists():
        if not (folder / INDEX_FILE).exists():
            raise ModelError(_nothing_to_read(reference, folder))
        names = _indexed_files(reference, folder / INDEX_FILE)
    for name in names:
        if not (folder / name).exists():
            raise ModelError(f"{reference}: {folder / name} is missing, but {INDEX_FILE} names it. Fetch it again.")
        if not is_plain_file(folder / name):
            raise ModelError(f"{reference}: {folder / name} is not a regular file. Replace or remove it.")
    return tuple(folder / name for name in names)


def choose_weights(
    reference: str, folder: Path, stored: Mapping[str, StoredWeight], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredWeight]:
    """Return where each wanted weight is; what else a checkpoint holds does not matter.

    Args:
        reference: The model, for messages.
        folder: Its folder, for messages.
        stored: From `read_stored_weights`.
        wanted: Name in transformers' causal language model -> shape.

    Raises:
        ModelError: If a weight is missing, or has another shape, or a type that is no plain number.
    """
    chosen: dict[str, StoredWeight] = {}
    for name, shape in wanted.items():
        weight = stored.get(name) or stored.get(name.removeprefix("model."))  # the bare model's names have no prefix
        if weight is None:
            continue
        if weight.shape != shape:
            differs = f"{weight.name} is {weight.shape}, config.json says {shape}"
            raise ModelError(f"{reference}: the weights in {folder} cannot be loaded ({differs}).")
        if weight.dtype not in _READABLE_DTYPES:
            told = f"{weight.name} is stored as {weight.dtype}, not as {' or '.join(_READABLE_DTYPES)}"
            raise ModelError(f"{reference}: the weights in {folder} cannot be loaded ({told}).")
        chosen[name] = weight
    if missing := [name for name in wanted if name not in chosen]:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ModelError(f"{reference}: {folder} lacks the weights {', '.join(missing[:_NAMED])}{more}.")
    return chosen


def _nothing_to_read(reference: str, folder: Path) -> str:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        return (
            f"{reference}: {folder} holds pickled weights only ({pickled[0]}), and a pickle can run any code, so none "
            "is read. Write them as safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)."
        )
    return f"{reference}: {folder} holds no {SINGLE_FILE} and no {INDEX_FILE}."


def _indexed_files(reference: str, path: Path) -> list[str]:
    """Return the files that an index names, all of its own folder."""
    try:
        index = json.loads(read_small_text(path, MAX_JSON_BYTES))
    except OSError as error:
        raise ModelError(f"{reference}: {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{reference}: {path} is not readable JSON ({error}).") from error
    named = index.get("weight_map") if isinstance(index, dict) else None
    files = list(named.values()) if isinstance(named, dict) else [None]
    wrong = [file for file in files if not isinstance(file, str) or Path(file).name != file or not file]
    if wrong or not files:
        told = f"weight_map names {shown(wrong[0])}" if wrong else "weight_map is empty"
        raise ModelError(f"{reference}: {path}: {told}, where names of files in its folder should be.")
    return sorted(set(files))
