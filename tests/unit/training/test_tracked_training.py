"""A chunk whose first pass is tracked is trained to the same bits, and its memory is told apart."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.layout import initial_value
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.load import load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.method_options import FedavgLoraOptions, LocalConfig
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.fleet.model_types import read_model_types
from heterotune.profiling.components import ACTIVATIONS, ADAPTERS, LOGITS, OPTIMIZER_STATE
from heterotune.profiling.recorder import MemoryRecorder
from heterotune.randomness import NO_CLIENT
from heterotune.training.local import TrainedChunk, train_chunk
from heterotune.training.objective import ChunkBatch

MODEL = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97"
LOCAL = LocalConfig(steps=2, optimizer="adamw", learning_rate=1e-2, weight_decay=0.1, batch_size=4)
NUM_CLIENTS, NUM_TOKENS = 2, 24


def trained(memory: MemoryRecorder, *, dtype: str, checkpointing: bool, making: str | None) -> TrainedChunk:
    model_type = read_model_types((FleetEntry(name="tiny", model=MODEL, clients=NUM_CLIENTS),))[0]
    options = {"dtype": dtype, "checkpointing": checkpointing, "device": torch.device("cpu")}
    backbone = load_backbone(model_type, ds_config=None, **options)
    layout = lora_layout(FedavgLoraOptions(adapter_rank=4), model_type)
    shared = {
        spec.key: torch.from_numpy(initial_value(spec, run_seed=1, client_id=NO_CLIENT, name=spec.key))
        for spec in layout.tensors
    }
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(97, (LOCAL.steps, NUM_CLIENTS * 4, NUM_TOKENS), generator=draw)
    batches = [ChunkBatch(each, each, torch.full((NUM_CLIENTS,), 4.0 * NUM_TOKENS)) for each in ids]
    chunk = Chunk(0, tuple(Client(number, 0, 8) for number in range(NUM_CLIENTS)), (LOCAL.steps,) * NUM_CLIENTS)
    memory.modules = {backbone.lm: ACTIVATIONS, backbone.lm.head: LOGITS}
    with memory.phase("train", 1, making=making):
        bank = stack_clients(layout, shared, [{}] * NUM_CLIENTS, device=backbone.device, head_frame=None)
        memory.now_making(OPTIMIZER_STATE)
        attached = AttachedAdapter(layout, backbone.llama)
        return train_chunk(backbone, attached, bank, chunk, memory.first_pass(batches), LOCAL)


@pytest.mark.parametrize(("dtype", "checkpointing"), [("fp32", False), ("fp32", True), ("bf16", False)])
def test_tracking_changes_no_bit(dtype: str, checkpointing: bool) -> None:
    options = {"dtype": dtype, "checkpointing": checkpointing}
    plain = trained(MemoryRecorder(0), **options, making=None)
    tracked = trained(MemoryRecorder(0), **options, making=ADAPTERS)
    assert torch.equal(plain.update_KP, tracked.update_KP) and plain.update_KP.abs().max() > 0
    assert torch.equal(plain.loss_K, tracked.loss_K)


def test_components_of_a_chunk_are_those_of_its_arrays() -> None:
    found = {}
    for checkpointing in (False, True):
        memory = MemoryRecorder(0)
        update_KP = trained(memory, dtype="fp32", checkpointing=checkpointing, making=ADAPTERS).update_KP
        (record,) = [record for record in memory.drain() if record["kind"] == "host_resident"]
        found[checkpointing] = record["components"]
    plain, matrix_bytes = found[False], update_KP.nbytes
    assert 2 * matrix_bytes <= plain[ADAPTERS] < 3.6 * matrix_bytes  # values, gradients, a row where they start
    assert plain[OPTIMIZER_STATE] >= 2 * matrix_bytes  # two moments
    rows, width, num_layers = NUM_CLIENTS * 4 * NUM_TOKENS, 32, 2
    assert plain[ACTIVATIONS] > 4 * rows * width * 10 * num_layers
    assert plain[LOGITS] >= 4 * rows * width  # the gradient that the head hands back
    assert found[True][ACTIVATIONS] < 0.8 * plain[ACTIVATIONS]
