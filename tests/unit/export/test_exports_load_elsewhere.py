"""An export gives our own logits in a process that has never heard of heterotune."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from heterotune.adapters.peft_start import read_starts
from heterotune.config.fleet_options import FleetEntry
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.export.stacking import stack_branches

TEXT = "import os\n\ndef main():\n    return os.name\n"
ADAPTERS = ("small", "large", "large-3q", "large-2q", "split, gates, client 4", "fedavg_lora", "untied")
MERGED = ("fedex_lora", "fedex_lora merged", "fedavg_lora merged", "fedavg_full merged", "untied fedavg_full merged")


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_stock_adapter_gives_our_logits(stock, exports, name):
    assert (stock["logits"][name] - exports[name].ours).abs().max() < 1e-5


@pytest.mark.parametrize("name", MERGED)
def test_a_merged_model_gives_our_logits(stock, exports, name):
    """A weight with the adapter in it is rounded to float32 once more than the two apart."""
    torch.testing.assert_close(stock["logits"][name], exports[name].ours, rtol=1e-5, atol=1e-4)


def test_adapters_change_logits(exports, input_ids):
    """What is compared above is not the frozen model."""
    assert (exports["fedavg_lora"].ours - exports["large"].ours).abs().max() > 0.1


def test_nothing_of_ours_was_imported(stock):
    assert stock["imported"] == []


def test_an_activation_loads_with_the_registered_kind(stock, exports):
    assert (stock["logits"]["silu"] - exports["silu"].ours).abs().max() < 1e-5
    assert torch.equal(stock["logits"]["silu, saved by peft"], stock["logits"]["silu"])
    assert torch.equal(stock["logits"]["silu, disabled"], stock["logits"]["silu, base"])
    assert (stock["logits"]["silu"] - stock["logits"]["silu, base"]).abs().max() > 0.1


def test_the_registered_kind_trains_with_peft(stock):
    assert len(stock["trainable"]) == 4 * 2 and all("q_proj.dema_" in name for name in stock["trainable"])


def test_what_the_registered_kind_cannot_do(stock):
    assert stock["refused"] == {
        "merge": "NotImplementedError: DEMA's branches have a non-linearity, so they cannot be merged into a weight.",
        "activation": "ValueError: activation = gelu is not known. It is silu.",
        "embedding": "TypeError: model.embed_tokens is Embedding, not torch.nn.Linear, which DEMA is made for.",
    }


def test_an_adapter_that_peft_saved_is_a_start(stock, exports):
    adapter = exports["fedavg_lora"].adapter
    entry = FleetEntry(name="large", model="embedded:large", clients=1, adapter=str(stock["folder"] / "saved by peft"))
    start = read_starts([entry], [adapter.layout], "fedavg_lora")
    assert len(start) == len(adapter.layout.tensors)
    assert all(torch.equal(start[spec.key], adapter.values[spec.name]) for spec in adapter.layout.tensors)


def test_a_merged_model_without_the_heads_bias_differs_by_just_that_bias(stock, exports):
    adapter = exports["merged without bias"].adapter
    bias = stack_branches(adapter.layout, adapter.values, adapter.frame)["lm_head"].bias_O
    off = exports["merged without bias"].ours - stock["logits"]["merged without bias"]
    torch.testing.assert_close(off, bias.expand_as(off), rtol=1e-5, atol=1e-4)
    assert bias.abs().max() > 0.1


def test_a_merged_model_without_the_head_is_that_of_the_layers_alone(stock, exports, ours_of, input_ids):
    exported = exports["merged without head"]
    layers = dataclasses.replace(exported.adapter, layout=dataclasses.replace(exported.adapter.layout, head=None))
    torch.testing.assert_close(stock["logits"]["merged without head"], ours_of(layers, input_ids), rtol=1e-5, atol=1e-4)
    assert (stock["logits"]["merged without head"] - exported.ours).abs().max() > 0.1


def test_the_base_folder_brings_the_runs_tokenizer(stock):
    expected = load_tokenizer("embedded:small").encode(TEXT)
    assert stock["tokens"]["small"] == stock["tokens"]["untied"] == stock["tokens"]["fedavg_full merged"] == expected
