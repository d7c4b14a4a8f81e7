from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_source import resolve_model
from heterotune.fleet.model_types import linear_path, read_model_types

SHAPE = "hidden_size=32,intermediate_size=48,num_attention_heads=4,num_key_value_heads=2,vocab_size=97"


def entry(name, model, **more):
    return FleetEntry(name=name, model=model, clients=1, **more)


def folder_with(tmp_path, text, weights=True):
    (tmp_path / "config.json").write_text(text)
    if weights:
        save_file({"model.norm.weight": torch.ones(8)}, tmp_path / "model.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_shapes_and_parameters_are_those_of_transformers(tied):
    reference = f"random:{SHAPE},num_hidden_layers=3,tie_word_embeddings={tied}"
    model_type = read_model_types((entry("m", reference),))[0]
    fields = {k: v for k, v in model_type.source.llama.items() if k != "model_type"}
    with torch.device("meta"):
        lm = LlamaForCausalLM(LlamaConfig(**fields))
    assert model_type.num_parameters == sum(p.numel() for p in lm.parameters())
    for linear, shape in model_type.linear_shapes.items():
        assert tuple(lm.model.get_submodule(linear_path(2, linear)).weight.shape) == shape


def test_embedded_siblings_know_their_original_layers():
    fleet = (entry("large", "embedded:large"), entry("half", "embedded:large-2q", siblings_of="large"))
    large, half = read_model_types(fleet)
    assert half.family == large.family == "large"
    assert len(half.original_layers) == half.num_layers < large.num_layers
    assert set(half.original_layers) < set(large.original_layers) == set(range(large.num_layers))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable JSON"),
        (json.dumps({"model_type": "gpt2"}), "model_type is 'gpt2', not 'llama'"),
        ("[]", "config.json holds no JSON object, but list"),
        (json.dumps({"model_type": "llama", "hidden_size": 8}), "has no 'intermediate_size'"),
    ],
)
def test_what_is_no_llama_is_refused(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        read_model_types((entry("m", folder_with(tmp_path, text)),))


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match="config.json is missing"):
        resolve_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"holds no model.safetensors and no model.safetensors.index.json"):
        resolve_model(folder_with(tmp_path, '{"model_type": "llama"}', weights=False))


@pytest.mark.parametrize("reference", ["/no/such/folder", "./nowhere", "nowhere"])
def test_a_missing_folder_is_refused(reference):
    with pytest.raises(ModelError, match="no such model folder"):
        resolve_model(reference)


def test_an_unknown_embedded_model_names_those_there_are():
    with pytest.raises(ModelError, match="no such embedded model. There are: large, large-2q, large-3q, small"):
        resolve_model("embedded:huge")


def test_a_hub_model_that_cannot_be_fetched_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match="neither a local folder, nor complete in the hub's local cache"):
        resolve_model("nobody/nothing")


def test_all_problems_of_a_fleet_come_together():
    fleet = (
        entry("base", f"random:{SHAPE},num_hidden_layers=4"),
        entry("wide", "random:hidden_size=64,num_hidden_layers=2", siblings_of="base", layers=(0, 1)),
        entry("long", f"random:{SHAPE},num_hidden_layers=2", siblings_of="base", layers=(0, 1, 2)),
        entry("odd", f"random:{SHAPE},num_hidden_layers=2", siblings_of="base", layers=(0, 9)),
        entry("unsaid", f"random:{SHAPE},num_hidden_layers=2", siblings_of="base"),
        entry("gone", "/no/such/folder"),
    )
    with pytest.raises(ModelError) as caught:
        read_model_types(fleet)
    text = str(caught.value)
    assert "wide is no depth-pruned sibling of base" in text
    assert "long: 3 original layer numbers for 2 layers" in text
    assert "odd: its original layers (0, 9) are not all in base" in text
    assert "unsaid: which layers of base it kept is unknown" in text
    assert "fleet.5 (gone): /no/such/folder" in text
