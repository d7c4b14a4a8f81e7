"""Models on the Hugging Face hub: the files that a run reads, from the local cache where they are in it."""

from __future__ import annotations

from pathlib import Path

from heterotune.errors import ModelError
from heterotune.fleet.checkpoint_files import INDEX_FILE, SINGLE_FILE, weight_files

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    SINGLE_FILE,
    INDEX_FILE,
    "model-*-of-*.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Neither code nor pickles, nor the second copy of the weights that some repositories hold in another format."""


def fetch_model(hub_id: str) -> Path:
    """Return the folder of a hub model in the local cache, downloading what is not there yet.

    What is complete in the cache is not asked for again: a run goes on with the files that it began with. Ranks of a
    node may call this at once; the cache's file locks let one of them download.

    Args:
        hub_id: As `org/name`.

    Raises:
        ModelError: If the model is not in the cache and cannot be fetched here; says what to do.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    cached = None
    try:
        cached = _cached_weights(hub_id)
        if cached is not None and any(cached.glob("tokenizer*")):
            return cached
        if constants.HF_HUB_OFFLINE:  # it would hand back what is there of the model, however little
            raise LocalEntryNotFoundError("files are missing")
        return Path(snapshot_download(hub_id, allow_patterns=list(MODEL_FILES)))
    except HFValidationError as error:
        raise ModelError(f"{hub_id}: neither a local folder nor a hub id ({error}).") from error
    except GatedRepoError as error:
        told = "its owner shares it on request only. Ask for access on its page, then `hf auth login`, or set HF_TOKEN"
        raise ModelError(f"{hub_id}: {told} ({_first_line(error)}).") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if cached is not None:  # all but a tokenizer, which the run file may name
            return cached
        raise ModelError(f"{hub_id}: {_unreachable(hub_id)} ({_first_line(error)}).") from error


def cached_config_folder(hub_id: str) -> Path:
    """Return the cached folder of a hub model that holds at least its config.json; nothing is downloaded.

    Raises:
        ModelError: If it is not in the cache.
    """
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


def _cached_weights(hub_id: str) -> Path | None:
    """Return a model's folder in the cache if its configuration and every file of weights is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        weight_files(hub_id, folder)
    except (LocalEntryNotFoundError, ModelError):
        return None
    return folder if (folder / "config.json").exists() else None


def _unreachable(hub_id: str) -> str:
    """Say why a model is not here, and how to get it."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub did not give it"
    return (
        f"neither a local folder, nor complete in the hub's local cache {HF_HUB_CACHE}, and {offline}. Fetch it where "
        f"there is a network, with HF_HOME on a file system that all nodes see: `hf download {hub_id}`; or "
        "give a folder"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
