"""What is refused before a weight is read; that shards are the checkpoint's is tested on several ranks."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from heterotune.backbone.load import read_model
from heterotune.backbone.sharded_reading import read_sharded
from heterotune.config.schema import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_types import read_model_types

RANDOM = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97,seed=4"


def model_type_of(model):
    return read_model_types((FleetEntry(name="m", model=str(model), clients=1),))[0]


@pytest.fixture
def folder(tmp_path):
    """A checkpoint."""
    read_model(model_type_of(RANDOM), "fp32").save_pretrained(tmp_path)
    return tmp_path


def read(folder):
    cpu = torch.device("cpu")
    return read_sharded(model_type_of(folder), ds_config={}, dtype=torch.float32, device=cpu, group=None)


def test_missing_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1." not in k}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="lacks the weights model.layers.1"):
        read(folder)


def test_weights_of_another_shape_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ModelError, match=r"cannot be loaded \(model.layers.0.mlp.\S+ is .*48.*config.json says .*64"):
        read(folder)


def test_a_file_that_is_cut_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"m: the weights in .* cannot be loaded \("):
        read(folder)
