from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from heterotune.backbone.load import load_backbone, read_model
from heterotune.backbone.mapped import map_model, mappable_files, write_mappable, written_files
from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_source import embedded_root
from heterotune.fleet.model_types import read_model_types

RANDOM = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97,seed=4"
CPU = torch.device("cpu")
IDS = torch.arange(12).view(2, 6)


def model_type_of(model):
    return read_model_types((FleetEntry(name="m", model=str(model), clients=1),))[0]


def hidden_states(backbone):
    with torch.no_grad():
        return backbone.lm(IDS, None)


def load(model_type, **more):
    return load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=CPU, **more)


@pytest.mark.parametrize("model", [RANDOM, RANDOM + ",tie_word_embeddings=false", "embedded:small"])
def test_a_mapped_model_is_the_model(tmp_path, model):
    model_type = model_type_of(model)
    assert mappable_files(model_type.source, torch.float32) is None  # random, or stored in fp16
    write_mappable(model_type, torch.float32, tmp_path)
    mapped = load(model_type, mapped=written_files(tmp_path))
    assert torch.equal(hidden_states(mapped), hidden_states(load(model_type)))
    assert torch.equal(mapped.output_embedding(), load(model_type).output_embedding())
    assert not any(parameter.requires_grad for parameter in mapped.lm.parameters())


def test_mapped_weights_are_pages_of_the_file(tmp_path):
    model_type = model_type_of(RANDOM)
    write_mappable(model_type, torch.float32, tmp_path)
    lm = map_model(model_type.source, written_files(tmp_path), torch.float32)
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(".safetensors"):
                ranges.append([int(number, 16) for number in line.split()[0].split("-")])
    assert all(any(low <= p.data_ptr() < high for low, high in ranges) for p in lm.parameters())


@pytest.mark.parametrize(("shards", "num_files"), [("1GB", 1), ("20KB", 5)])
def test_a_folder_in_the_right_dtype_is_mapped_as_it_is(tmp_path, shards, num_files):
    model_type = model_type_of(RANDOM)
    read_model(model_type, "fp32").save_pretrained(tmp_path, max_shard_size=shards)
    own = mappable_files(model_type_of(tmp_path).source, torch.float32)
    assert list(own) == sorted(tmp_path.glob("model*.safetensors")) and len(own) == num_files
    assert mappable_files(model_type_of(tmp_path).source, torch.bfloat16) is None
    assert torch.equal(hidden_states(load(model_type_of(tmp_path), mapped=own)), hidden_states(load(model_type)))


def test_logits_are_those_of_transformers():
    backbone = load(model_type_of("embedded:large-2q"))
    lm = LlamaForCausalLM.from_pretrained(embedded_root() / "large-2q", dtype=torch.float32)
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(lm(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        losses = backbone.lm(IDS[:, :-1], IDS[:, 1:])
    torch.testing.assert_close(losses.mean(), expected)


@pytest.mark.parametrize("more", ["", ",tie_word_embeddings=false", ",attention_bias=true,num_key_value_heads=2"])
def test_random_weights_are_those_that_transformers_draws_for_the_whole_model(more):
    model_type = model_type_of(RANDOM + more)
    fields = {key: value for key, value in model_type.source.llama.items() if key != "model_type"}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = LlamaForCausalLM(LlamaConfig(**fields)).state_dict()
    found = read_model(model_type, "fp32").state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    halves = read_model(model_type, "bf16").state_dict()
    assert all(torch.equal(halves[name], expected[name].bfloat16()) for name in expected)


def test_random_weights_come_from_their_own_seed_and_leave_torchs_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (hidden_states(load(model_type_of(RANDOM))) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.random.get_rng_state(), before)
    other = hidden_states(load(model_type_of(RANDOM.replace("seed=4", "seed=5"))))
    assert not torch.equal(first, other)


def test_checkpointing_changes_no_result():
    model_type = model_type_of(RANDOM)
    kept = load(model_type)
    recomputed = load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=True, device=CPU)
    assert torch.equal(hidden_states(kept), hidden_states(recomputed))
    assert not recomputed.lm(IDS, None).requires_grad  # layers without an adapter have no backward pass


def test_weights_that_do_not_fit_are_refused(tmp_path):
    shutil.copytree(embedded_root() / "small", tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1." not in k}, tmp_path / "cut" / "model.safetensors")
    with pytest.raises(ModelError, match="lacks the weights model.layers.1"):
        load(model_type_of(tmp_path / "cut"))
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    (tmp_path / "cut" / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(model_type_of(tmp_path / "cut"))


def test_files_that_are_damaged_or_gone_when_they_are_mapped_are_told(tmp_path):
    model_type = model_type_of(RANDOM)
    write_mappable(model_type, torch.float32, tmp_path)
    path = tmp_path / "model.norm.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match="the weights in .*model.norm.safetensors cannot be loaded"):
        map_model(model_type.source, [path], torch.float32)
