"""What of a checkpoint folder is refused before anything starts: by the headers of its files, no weight is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_source import describe_model
from heterotune.fleet.model_types import read_model_types

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
}
SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    **{f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": (12, 8) for name in ("gate", "up")},
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.norm.weight": (8,),
    "lm_head.weight": (16, 8),
}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in two files with an index."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write(tmp_path, {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    return tmp_path


def write(folder, weights) -> None:
    names = list(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read(folder):
    return read_model_types((FleetEntry(name="m", model=str(folder), clients=1),))[0]


def changed(folder, name, array) -> None:
    weights = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()}
    write(folder, {key: value for key, value in {**weights, name: array}.items() if value is not None})


def test_a_whole_checkpoint_passes(folder):
    assert {name: weight.shape for name, weight in read(folder).source.weights.items()} == SHAPES


def test_names_without_the_models_prefix_are_found(folder):
    bare = {name.removeprefix("model."): np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    write(folder, bare)
    assert read(folder).source.weights["model.norm.weight"].name == "norm.weight"


def test_one_file_is_preferred_to_an_index_and_other_files_do_not_count(folder):
    save_file({"other": np.zeros(3, np.float32)}, folder / "consolidated.safetensors")
    read(folder)
    save_file({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, folder / "model.safetensors")
    assert {weight.path.name for weight in read(folder).source.weights.values()} == {"model.safetensors"}


def test_a_missing_file_is_named(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002.safetensors is missing, but model.safetensors.index"):
        read(folder)


def test_missing_weights_are_named(folder):
    changed(folder, "model.norm.weight", None)
    with pytest.raises(ModelError, match=r"lacks the weights model.norm.weight\.$"):
        read(folder)
    write(folder, {"model.norm.weight": np.zeros(8, np.float32)})
    with pytest.raises(ModelError, match=r"lacks the weights model.embed_tokens.weight, .* and 7 more\.$"):
        read(folder)


def test_another_shape_is_named(folder):
    changed(folder, "model.layers.0.mlp.up_proj.weight", np.zeros((12, 4), np.float32))
    told = r"cannot be loaded \(model.layers.0.mlp.up_proj.weight is \(12, 4\), config.json says \(12, 8\)\)"
    with pytest.raises(ModelError, match=told):
        read(folder)


def test_numbers_that_are_no_weights_are_named(folder):
    changed(folder, "model.norm.weight", np.zeros(8, np.int8))
    with pytest.raises(ModelError, match=r"model.norm.weight is stored as I8, not as F64 or F32 or BF16 or F16"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "index.json is not readable JSON"),
        ("[]", "weight_map names null, where names of files"),
        ('{"weight_map": {}}', "weight_map is empty, where names of files"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "weight_map names '../x.safetensors', where names"),
        ('{"weight_map": {"a": 3}}', "weight_map names 3, where names"),
    ],
)
def test_an_index_of_nonsense_is_refused(folder, text, told):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=told):
        read(folder)


def test_an_index_that_cannot_be_read_is_refused(folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors.index.json").mkdir()
    with pytest.raises(ModelError, match="index.json cannot be read .Is a directory"):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', not 'llama' or 'mistral'"),
        ({"model_type": "mixtral"}, "model_type is 'mixtral', not 'llama' or 'mistral'"),
        ({"num_local_experts": 8}, "num_local_experts = 8: a mixture of experts is no LLaMA"),
        ({"quantization_config": {"quant_method": "gptq"}}, "stored quantised .quantization_config: 'gptq'.*quantize"),
        (
            {"model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: only some layers have a sliding window",
        ),
    ],
)
def test_other_architectures_are_refused(folder, changes, told):
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(ModelError, match=told):
        read(folder)


def test_a_silent_mistral_has_eight_key_heads(folder):
    silent = CONFIG | {"model_type": "mistral", "num_attention_heads": 16, "hidden_size": 32}
    for stored in folder.glob("*.safetensors*"):
        stored.unlink()
    (folder / "config.json").write_text(json.dumps(silent))
    fleet = (FleetEntry(name="m", model=str(folder), clients=1),)
    assert read_model_types(fleet, describe_model)[0].linear_shapes["k_proj"] == (16, 32)
