"""Where a model type's weights come from, and its configuration, read without loading a weight."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.config.explain import shown
from heterotune.config.random_model import RANDOM_PREFIX, parse_random_model
from heterotune.errors import ModelError
from heterotune.plain_files import MAX_JSON_BYTES, is_folder, is_plain_file, read_small_text

EMBEDDED_PREFIX = "embedded:"
_RANDOM_DEFAULTS = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class ModelSource:
    """A resolved `model:` of the fleet.

    Attributes:
        reference: The text in the run file.
        folder: Folder with config.json and safetensors; None for random weights.
        llama: The LlamaConfig fields as plain JSON values.
        random_seed: Seed of the weights of a `random:` model, else None.
    """

    reference: str
    folder: Path | None
    llama: dict[str, Any]
    random_seed: int | None = None

    @property
    def folder_or_reference(self) -> Path | str:
        """The folder where there is one; what is beside the weights, the tokenizer, is there."""
        return self.folder or self.reference


def embedded_root() -> Path:
    """Return the folder of the embedded model family and its tokenizer."""
    return Path(str(importlib.resources.files("heterotune.backbone"))) / "embedded"


def resolve_model(reference: str) -> ModelSource:
    """Find a model and read its configuration.

    Args:
        reference: `embedded:NAME`, `random:field=value,...`, a folder, or a hub id.

    Raises:
        ModelError: If it does not exist, has no readable config.json, or is not a LLaMA.
    """
    if reference.startswith(RANDOM_PREFIX):
        return _random_model(reference)
    folder = _folder_of(reference, _download)
    llama = _read_llama_config(reference, folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{reference}: {folder} holds no *.safetensors file.")
    for file in weights:
        if not is_plain_file(file):
            raise ModelError(f"{reference}: {file} is not a regular file. Replace or remove it.")
    return ModelSource(reference, folder, llama)


def describe_model(reference: str) -> ModelSource:
    """Read a model's configuration only: no weights are needed, and nothing is downloaded.

    Args:
        reference: As for `resolve_model`; a hub id must be in the hub's local cache.

    Raises:
        ModelError: If it does not exist here, has no readable config.json, or is not a LLaMA.
    """
    if reference.startswith(RANDOM_PREFIX):
        return _random_model(reference)
    folder = _folder_of(reference, _cached)
    return ModelSource(reference, folder, _read_llama_config(reference, folder))


def _random_model(reference: str) -> ModelSource:
    fields = {**_RANDOM_DEFAULTS, **parse_random_model(reference)}
    seed = int(fields.pop("seed", 0))
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    return ModelSource(reference, None, {"model_type": "llama", **fields}, seed)


def _folder_of(reference: str, from_hub: Callable[[str], Path]) -> Path:
    if reference.startswith(EMBEDDED_PREFIX):
        folder = embedded_root() / reference.removeprefix(EMBEDDED_PREFIX)
        if "/" in reference or not is_plain_file(folder / "config.json"):
            names = sorted(path.parent.name for path in embedded_root().glob("*/config.json"))
            raise ModelError(f"{reference}: no such embedded model. There are: {', '.join(names)}.")
        return folder
    if is_folder(Path(reference)):
        return Path(reference)
    if reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        raise ModelError(
            f"{reference}: no such model folder. Give a folder with config.json, a hub id or embedded:NAME."
        )
    return from_hub(reference)


def _cached(hub_id: str) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError as error:
        raise ModelError(f"{hub_id}: neither a local folder nor a hub id ({error}).") from error
    if not isinstance(found, str):
        raise ModelError(
            f"{hub_id}: not in the hub's local cache, and a plan downloads nothing. Fetch its configuration with "
            f"`hf download {hub_id} config.json`, or give a folder."
        )
    return Path(found).parent


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "tokenizer*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{hub_id}: neither a local folder nor a hub model that can be fetched here ({error})."
        ) from error


def _read_llama_config(reference: str, folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        llama = json.loads(read_small_text(path, MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise ModelError(f"{reference}: {path} is missing; a model folder needs its config.json.") from error
    except OSError as error:
        raise ModelError(f"{reference}: {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{reference}: {path} is not readable JSON ({error}).") from error
    if not isinstance(llama, dict) or llama.get("model_type") != "llama":
        kind = llama.get("model_type") if isinstance(llama, dict) else type(llama).__name__
        told = f"model_type is {shown(kind)}, not 'llama'. heterotune federates LLaMA models."
        raise ModelError(f"{reference}: {told}")
    return llama
