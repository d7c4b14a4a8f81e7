"""Blocks as they are read, and what they leave behind; that shards are the checkpoint's is tested on ranks."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file

from heterotune.backbone import block_reading, sharded_reading
from heterotune.backbone.architecture import blocks, lm_on_meta
from heterotune.backbone.heap import trim_heap
from heterotune.backbone.load import read_model
from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import ModelError
from heterotune.fleet.model_types import read_model_types
from heterotune.profiling.process_memory import status_bytes

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


@pytest.mark.parametrize("piece_bytes", [1, 1000, 4096])
def test_a_weight_that_is_read_in_pieces_is_the_files(tmp_path, monkeypatch, piece_bytes):
    read_model(model_type_of(RANDOM), "fp32").save_pretrained(tmp_path)
    monkeypatch.setattr(block_reading, "_PIECE_BYTES", piece_bytes)
    read = read_model(model_type_of(tmp_path), "bf16").state_dict()
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() <= read.keys()
    assert all(torch.equal(read[name], weight.bfloat16()) for name, weight in stored.items())


def test_the_heap_is_trimmed_after_every_block(monkeypatch):
    trims = []
    monkeypatch.setattr(sharded_reading, "trim_heap", lambda: trims.append(1))
    model_type = model_type_of(RANDOM)
    lm = lm_on_meta(model_type.source, torch.float32)
    before = [len(trims) for _ in sharded_reading._blocks(lm, model_type, reads=True)]
    assert (before, len(trims)) == (list(range(len(blocks(lm)))), len(blocks(lm)))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and at glibc's heap")
def test_trimming_gives_back_what_lies_between_blocks_in_use():
    pieces = [b"x" * 2**16 for _ in range(2000)]  # small enough for the heap, which ends with one that stays
    kept = pieces[::20] + pieces[-1:]
    del pieces
    resident_bytes = status_bytes()["VmRSS"]
    trim_heap()
    assert resident_bytes - status_bytes()["VmRSS"] > 50 * 2**20, len(kept)
