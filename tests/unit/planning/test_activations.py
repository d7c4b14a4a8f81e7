"""What a pass saves for its backward pass, counted by autograd's own hooks, against the plan's arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, HeadFrame, stack_clients
from heterotune.adapters.dema import dema_layout
from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.load import DTYPES, Backbone, load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.planning.activations import in_backward, in_evaluation, saved_by_layer, saved_by_pass, total
from heterotune.planning.shapes import TypeShape
from heterotune.randomness import NO_CLIENT
from heterotune.training.objective import ChunkBatch, client_losses

CLIENTS, ROWS, TOKENS = 2, 3, 5
ALL_TOKENS = CLIENTS * ROWS * TOKENS


@pytest.fixture(autouse=True)
def plain_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what DeepSpeed does to this whole process once another test has sharded a model."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


def model_of(num_layers: int, num_kv_heads: int) -> ModelType:
    text = f"hidden_size=32,intermediate_size=48,num_attention_heads=4,num_key_value_heads={num_kv_heads}"
    return model_type_of(f"random:{text},vocab_size=64,num_hidden_layers={num_layers}")


def model_type_of(model: str) -> ModelType:
    return read_model_types((FleetEntry(name="m", model=model, clients=1),))[0]


def backbone_of(model_type: ModelType, dtype: str = "fp32", *, checkpointing: bool = False) -> Backbone:
    device = torch.device("cpu")
    return load_backbone(model_type, ds_config=None, dtype=dtype, checkpointing=checkpointing, device=device)


def bank_of(layout: AdapterLayout, head_frame: HeadFrame | None = None) -> Bank:
    shared = {
        spec.key: torch.from_numpy(initial_value(spec, run_seed=0, client_id=NO_CLIENT, name=spec.key))
        for spec in layout.travelling
    }
    return stack_clients(layout, shared, [{}] * CLIENTS, device=torch.device("cpu"), head_frame=head_frame)


def batch() -> ChunkBatch:
    ids_RT = torch.arange(ALL_TOKENS).view(-1, TOKENS) % 64
    return ChunkBatch(ids_RT, ids_RT, torch.full((CLIENTS,), ROWS * TOKENS))


def saved_bytes(backbone: Backbone, bank: Bank, dtype: str, adapter_rank: int) -> int:
    """Bytes of all storages that autograd keeps, without weights and without the adapters and their casts."""
    known = {bank.values_KP.untyped_storage().data_ptr()}
    known |= {weight.untyped_storage().data_ptr() for weight in backbone.lm.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        is_adapter = tensor.dtype == DTYPES[dtype] and tensor.ndim == 3 and tensor.shape[0] == CLIENTS
        is_cast = dtype != "fp32" and is_adapter and adapter_rank in tensor.shape[1:] and not is_rows(tensor)
        if tensor.untyped_storage().data_ptr() not in known and not is_cast:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    def is_rows(tensor: torch.Tensor) -> bool:
        return tensor.shape[1] == ROWS * TOKENS

    attached = AttachedAdapter(bank.layout, backbone.llama)
    with attached.use(bank), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses_K = client_losses(backbone, bank, batch())
    assert losses_K.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def saved_under_lora(num_layers: int, num_kv_heads: int, options: FedavgLoraOptions, dtype: str):
    """Return what autograd keeps, and the shape."""
    model_type = model_of(num_layers, num_kv_heads)
    layout = lora_layout(options, model_type)
    saved = saved_bytes(backbone_of(model_type, dtype), bank_of(layout), dtype, options.adapter_rank)
    return saved, TypeShape(model_type, layout)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_layer_saves_what_the_plan_says(num_kv_heads, targets, dtype) -> None:
    options = FedavgLoraOptions(adapter_rank=3, targets=targets)
    two, shape = saved_under_lora(2, num_kv_heads, options, dtype)
    three, _ = saved_under_lora(3, num_kv_heads, options, dtype)
    dtype_bytes = {"fp32": 4, "bf16": 2}[dtype]
    assert three - two == total(saved_by_layer(shape, dtype_bytes), ALL_TOKENS)


LARGE = model_type_of("embedded:large")  # 8 layers


def with_last_layers(lora_layers: int | str) -> tuple[TypeShape, Bank]:
    """Return `large` with LoRA in its last layers and a branch at the head."""
    given = HeterotuneOptions(lora_layers=lora_layers, adapter_rank=3, head_rank=4, head_basis=8)
    layout = dema_layout(
        given.settled(asks_questions=False, families=("large",), rounds=1, optimizer="adamw"), LARGE, (LARGE,)
    )
    frame = HeadFrame(torch.ones(4, LARGE.width), torch.zeros(LARGE.width), torch.ones(8, LARGE.vocab_size))
    return TypeShape(LARGE, layout), bank_of(layout, frame)


def test_only_layers_from_the_lowest_adapted_one_on_save_anything() -> None:
    kept, planned = {}, {}
    for lora_layers in (0, 2, 3, "all"):
        shape, bank = with_last_layers(lora_layers)
        kept[lora_layers] = saved_bytes(backbone_of(LARGE), bank, "fp32", 3)
        planned[lora_layers] = total(saved_by_pass(shape, 4, checkpointing=False), ALL_TOKENS)
    assert planned[0] == 0
    assert kept[2] - kept[0] == pytest.approx(planned[2], rel=0.01)  # rotary angles, indices of tokens
    for some, more in ((2, 3), (2, "all")):
        assert kept[more] - kept[some] == planned[more] - planned[some] > 0


@pytest.mark.parametrize(("lora_layers", "num_kept"), [(0, 0), (2, 2), ("all", 8)])
def test_checkpointing_keeps_the_inputs_of_layers_that_are_computed_again(lora_layers, num_kept) -> None:
    shape, bank = with_last_layers(lora_layers)
    backbone, inputs = backbone_of(LARGE, checkpointing=True), []
    for layer in backbone.llama.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(StorageWeakRef(given[0].untyped_storage())))
    with AttachedAdapter(bank.layout, backbone.llama).use(bank):
        losses_K = client_losses(backbone, bank, batch())
        kept = [each for each in inputs if not each.expired()]
    assert losses_K.requires_grad and len(inputs) == 8 and len(kept) == num_kept
    saved = saved_by_pass(shape, 4, checkpointing=True)
    assert saved == ([(4 * LARGE.width, num_kept), (4 * LARGE.width, 1)] if num_kept else [])


def test_without_a_backward_pass_in_layers_the_forward_pass_is_the_peak() -> None:
    alone, two = (with_last_layers(lora_layers)[0] for lora_layers in (0, 2))
    for checkpointing in (False, True):
        assert in_backward(alone, 4, checkpointing=checkpointing) == in_evaluation(alone, 4)
        assert in_backward(two, 4, checkpointing=checkpointing) != in_evaluation(two, 4)
