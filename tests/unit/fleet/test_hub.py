"""Hub models from a cache that is laid out here; no test asks the hub itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from heterotune.config.fleet_options import FleetEntry
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.errors import ModelError
from heterotune.fleet.hub import MODEL_FILES
from heterotune.fleet.model_source import describe_model, embedded_root, resolve_model
from heterotune.fleet.model_types import read_model_types

HUB_ID = "somebody/small-llama"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the hub's local cache; the machine is offline."""
    repository = tmp_path / "hub" / "models--somebody--small-llama"
    folder = repository / "snapshots" / ("0" * 40)
    shutil.copytree(embedded_root() / "small", folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_root() / name, folder / name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for module in (huggingface_hub.constants, huggingface_hub._snapshot_download, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_model_in_the_cache_needs_no_network(snapshot: Path) -> None:
    assert resolve_model(HUB_ID).folder == snapshot
    assert describe_model(HUB_ID).folder == snapshot
    model_type = read_model_types((FleetEntry(name="m", model=HUB_ID, clients=1),))[0]
    embedded = read_model_types((FleetEntry(name="m", model="embedded:small", clients=1),))[0]
    assert model_type.num_parameters == embedded.num_parameters
    assert load_tokenizer(model_type.source.folder).digest == load_tokenizer("embedded:small").digest


def test_a_model_that_is_complete_is_not_asked_for_again(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(hub_id: str, *, local_files_only: bool = False, **more: object) -> str:
        assert local_files_only, "the hub was asked"
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_model(HUB_ID).folder == snapshot


def test_what_is_fetched_is_neither_code_nor_a_second_copy(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "modeling_x.py"]
    repository += ["model-00001-of-00002.safetensors", "consolidated.safetensors", "pytorch_model.bin", "x.gguf"]
    fetched: list[str] = []
    tokenizer, kept = snapshot / "tokenizer.json", snapshot / "tokenizer_config.json"
    tokenizer.unlink()
    kept.unlink()

    def snapshot_download(hub_id: str, *, local_files_only: bool = False, allow_patterns: object = None) -> str:
        if not local_files_only:
            fetched.extend(huggingface_hub.utils.filter_repo_objects(repository, allow_patterns=allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert resolve_model(HUB_ID).folder == snapshot
    assert fetched == [name for name in repository if name not in repository[4:5] + repository[6:]]
    assert not any(pattern.endswith((".py", ".bin")) for pattern in MODEL_FILES)


def test_a_model_without_tokenizer_is_taken_as_it_is_when_offline(snapshot: Path) -> None:
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer_config.json").unlink()
    assert resolve_model(HUB_ID).folder == snapshot


def test_half_a_model_and_no_network_is_an_error_with_a_way_out(snapshot: Path) -> None:
    (snapshot / "model.safetensors").unlink()
    told = r"nor complete in the hub's local cache .*, and HF_HUB_OFFLINE is set\. Fetch it .*`hf download somebody/sm"
    with pytest.raises(ModelError, match=told):
        resolve_model(HUB_ID)


def answering(error: Exception) -> object:
    def snapshot_download(hub_id: str, *, local_files_only: bool = False, **more: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no") if local_files_only else error

    return snapshot_download


def http_error(kind: type[HfHubHTTPError], text: str) -> HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def test_a_model_that_is_shared_on_request_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answering(http_error(GatedRepoError, "403\nmore")))
    with pytest.raises(ModelError, match=r"on request only. Ask for access on its page, then `hf auth login`"):
        resolve_model(HUB_ID)


def test_a_hub_that_refuses_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answering(http_error(HfHubHTTPError, "500 broken\nx")))
    with pytest.raises(ModelError, match=r"and the hub did not give it\. .*\(500 broken\)\.$"):
        resolve_model(HUB_ID)


def test_what_is_no_hub_id_is_refused() -> None:
    for resolve in (resolve_model, describe_model):
        with pytest.raises(ModelError, match="neither a local folder nor a hub id"):
            resolve("a b/c--d")
