"""What a pass saves for its backward pass, counted by autograd's own hooks, against the plan's arithmetic."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, stack_clients
from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.load import DTYPES, load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.planning.activations import saved_by_layer, total
from heterotune.planning.shapes import TypeShape
from heterotune.randomness import NO_CLIENT
from heterotune.training.objective import ChunkBatch, client_losses

CLIENTS, ROWS, TOKENS = 2, 3, 5


@pytest.fixture(autouse=True)
def plain_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what DeepSpeed does to this whole process once another test has sharded a model."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


def model_of(num_layers: int, num_kv_heads: int) -> ModelType:
    text = f"hidden_size=32,intermediate_size=48,num_attention_heads=4,num_key_value_heads={num_kv_heads}"
    model = f"random:{text},vocab_size=64,num_hidden_layers={num_layers}"
    return read_model_types((FleetEntry(name="m", model=model, clients=1),))[0]


def bank_of(layout: AdapterLayout) -> Bank:
    shared = {
        spec.key: torch.from_numpy(initial_value(spec, run_seed=0, client_id=NO_CLIENT, name=spec.key))
        for spec in layout.travelling
    }
    return stack_clients(layout, shared, [{}] * CLIENTS, device=torch.device("cpu"), head_frame=None)


def saved_bytes(num_layers: int, num_kv_heads: int, options: FedavgLoraOptions, dtype: str) -> tuple[int, TypeShape]:
    """Bytes of all storages that autograd keeps, without weights and without the adapters and their casts."""
    model_type = model_of(num_layers, num_kv_heads)
    backbone = load_backbone(model_type, ds_config=None, dtype=dtype, checkpointing=False, device=torch.device("cpu"))
    layout = lora_layout(options, model_type)
    bank = bank_of(layout)
    known = {bank.values_KP.untyped_storage().data_ptr()}
    known |= {weight.untyped_storage().data_ptr() for weight in backbone.lm.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        is_adapter = tensor.dtype == DTYPES[dtype] and tensor.ndim == 3 and tensor.shape[0] == CLIENTS
        is_cast = dtype != "fp32" and is_adapter and options.adapter_rank in tensor.shape[1:] and not is_rows(tensor)
        if tensor.untyped_storage().data_ptr() not in known and not is_cast:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def is_rows(tensor: torch.Tensor) -> bool:
        return tensor.shape[1] == ROWS * TOKENS

    ids_RT = torch.arange(CLIENTS * ROWS * TOKENS).view(-1, TOKENS) % 64
    batch = ChunkBatch(ids_RT, ids_RT, torch.full((CLIENTS,), ROWS * TOKENS))
    attached = AttachedAdapter(layout, backbone.llama)
    with attached.use(bank), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses_K = client_losses(backbone, bank, batch)
    assert losses_K.requires_grad
    return sum(storage.nbytes() for storage in kept.values()), TypeShape(model_type, layout)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_layer_saves_what_the_plan_says(num_kv_heads, targets, dtype) -> None:
    options = FedavgLoraOptions(adapter_rank=3, targets=targets)
    two, shape = saved_bytes(2, num_kv_heads, options, dtype)
    three, _ = saved_bytes(3, num_kv_heads, options, dtype)
    dtype_bytes = {"fp32": 4, "bf16": 2}[dtype]
    assert three - two == total(saved_by_layer(shape, dtype_bytes), CLIENTS * ROWS * TOKENS)
