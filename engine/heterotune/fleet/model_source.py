"""Where a model type's weights come from, and its configuration, read without loading a weight."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heterotune.config.random_model import RANDOM_PREFIX, parse_random_model
from heterotune.errors import ModelError
from heterotune.fleet.architectures import architecture_problem
from heterotune.fleet.checkpoint_files import StoredWeight, read_stored_weights
from heterotune.fleet.hub import cached_config_folder, fetch_model
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
        weights: What a folder's files hold, by name; of a `ModelType`, what it needs of that, under transformers'
            names. Empty for random weights, and where only the configuration was read.
    """

    reference: str
    folder: Path | None
    llama: dict[str, Any]
    random_seed: int | None = None
    weights: Mapping[str, StoredWeight] = field(default_factory=dict, repr=False)

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
    folder = _folder_of(reference, fetch_model)
    llama = _read_llama_config(reference, folder)
    return ModelSource(reference, folder, llama, weights=read_stored_weights(reference, folder))


def describe_model(reference: str) -> ModelSource:
    """Read a model's configuration only: no weights are needed, and nothing is downloaded.

    Args:
        reference: As for `resolve_model`; a hub id must be in the hub's local cache.

    Raises:
        ModelError: If it does not exist here, has no readable config.json, or is not a LLaMA.
    """
    if reference.startswith(RANDOM_PREFIX):
        return _random_model(reference)
    folder = _folder_of(reference, cached_config_folder)
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
    if not isinstance(llama, dict):
        raise ModelError(f"{reference}: {path} holds no JSON object, but {type(llama).__name__}.")
    if problem := architecture_problem(llama):
        raise ModelError(f"{reference}: {problem}")
    return llama
