"""A checkpoint that changes between the checks and the reading; that shards are the checkpoint's is tested on ranks."""

from __future__ import annotations

import pytest

from heterotune.backbone.load import read_model
from heterotune.config.schema import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_types import read_model_types

RANDOM = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97,seed=4"


def model_type_of(model):
    return read_model_types((FleetEntry(name="m", model=str(model), clients=1),))[0]


def test_a_file_that_is_cut_after_the_checks_is_told(tmp_path):
    read_model(model_type_of(RANDOM), "fp32").save_pretrained(tmp_path)
    model_type = model_type_of(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"m: the weights in .* cannot be loaded \("):
        read_model(model_type, "fp32")
