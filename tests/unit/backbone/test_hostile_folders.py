"""Folders of models, tokenizers and data that bring code or pickles along: nothing of them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from heterotune.backbone.architecture import lm_config
from heterotune.backbone.load import load_backbone, read_model
from heterotune.config.data_options import DataConfig
from heterotune.config.fleet_options import FleetEntry
from heterotune.data.corpora import load_corpus
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.errors import DataError, ModelError
from heterotune.fleet.model_source import embedded_root, resolve_model
from heterotune.fleet.model_types import ModelType, read_model_types


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def folder(tmp_path: Path, marker: Path) -> Path:
    """An embedded model whose configuration names code, with that code beside it, and pickled weights."""
    path = tmp_path / "model"
    shutil.copytree(embedded_root() / "small", path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_root() / name, path / name)
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass X: pass\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "model.py", "__init__.py"):
        (path / name).write_text(code)
    auto_map = {f"Auto{kind}": f"modeling_evil.{kind}" for kind in ("Config", "Model", "ModelForCausalLM")}
    change(
        path / "config.json", auto_map=auto_map, _attn_implementation="evil/kernel", attn_implementation="evil/kernel"
    )
    change(path / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.X", None]})
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    return path


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def model_type(folder: Path) -> ModelType:
    return read_model_types((FleetEntry(name="m", model=str(folder), clients=1),))[0]


def test_code_beside_a_model_is_not_run(folder, marker):
    clean = read_model(read_model_types((FleetEntry(name="m", model="embedded:small", clients=1),))[0], "fp32")
    read = read_model(model_type(folder), "fp32")
    assert all(torch.equal(a, b) for a, b in zip(clean.parameters(), read.parameters(), strict=True))
    load_backbone(model_type(folder), ds_config=None, dtype="fp32", checkpointing=False, device=torch.device("cpu"))
    config = lm_config(resolve_model(str(folder)))
    assert not hasattr(config, "auto_map") and config._attn_implementation != "evil/kernel"
    load_tokenizer(folder)
    assert not marker.exists()


def test_pickled_weights_are_never_read(folder, marker):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(
        ModelError, match=r"holds pickled weights only .pytorch_model.bin., and a pickle can run any code"
    ):
        model_type(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"holds no model.safetensors and no model.safetensors.index.json"):
        model_type(folder)
    assert not marker.exists()


def test_a_tokenizer_that_is_only_code_is_refused(folder, marker):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="the tokenizer (cannot be read|has no end-of-sequence)"):
        load_tokenizer(folder)
    assert not marker.exists()


def test_a_script_in_a_data_folder_is_not_run(tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "json"):  # the second is also the name of a builder
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\nclass X: pass\n")
        (tmp_path / name / "rows.jsonl").write_text('{"text": "a row"}\n{"text": "another"}\n')
        config = DataConfig.model_validate({"source": name, "partition": {"by": "iid"}})
        assert [document.text for document in load_corpus(config)] == ["a row", "another"]
    (tmp_path / "data" / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="the folder holds no .* file"):
        load_corpus(DataConfig.model_validate({"source": "data"}))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_hidden_layers": 2**60}, "num_hidden_layers = 1152921504606846976 is no integer from 1 to 100000"),
        ({"hidden_size": "64"}, "hidden_size = '64' is no integer from 1 to"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 is no integer"),
        ({"vocab_size": True}, "vocab_size = true is no integer"),
        ({"head_dim": -2}, "head_dim = -2 is no integer"),
        ({"original_layers": [3, 1]}, r"original_layers = \[3, 1\] is no strictly increasing list"),
        ({"original_layers": "0123"}, "original_layers = '0123' is no strictly increasing list"),
        ({"model_type": ["x"] * 1000}, "model_type is .*, not 'llama'"),
    ],
)
def test_a_configuration_of_nonsense_is_refused(folder, values, told):
    change(folder / "config.json", **values)
    with pytest.raises(ModelError, match=told):
        model_type(folder)


def test_a_configuration_that_transformers_refuses_names_the_model(folder):
    change(folder / "config.json", hidden_act=3, rms_norm_eps="small")
    with pytest.raises(ModelError, match="model: its config.json is no LLaMA's"):
        lm_config(resolve_model(str(folder)))


def test_links_pipes_and_devices_in_a_model_folder_are_refused(folder):
    (folder / "config.json").rename(folder / "kept.json")
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match="config.json cannot be read .it is not a regular file"):
        model_type(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="config.json cannot be read"):
        model_type(folder)
    (folder / "config.json").unlink()
    (folder / "kept.json").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match="model.safetensors is not a regular file. Replace or remove it."):
        model_type(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (1 << 62).to_bytes(8, "little") + b"{}"])
def test_damaged_weights_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="the weights in .* cannot be loaded"):
        read_model(model_type(folder), "fp32")
    with pytest.raises(ModelError, match="the weights in .* cannot be loaded"):
        resolve_model(str(folder))


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000])
def test_settings_of_a_tokenizer_that_are_no_object_are_refused(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match="tokenizer_config.json: (cannot be read as JSON|holds no JSON object)"):
        load_tokenizer(folder)


@pytest.mark.parametrize("reference", ["embedded:../small", "~nobody-has-this-name/x", "a" * 5000, "/x\x00y"])
def test_references_that_lead_nowhere_are_refused(reference):
    with pytest.raises(ModelError, match="no such|neither"):
        resolve_model(reference)
