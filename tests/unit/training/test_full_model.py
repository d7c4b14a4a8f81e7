"""Whole models trained as differences, a chunk in one pass, equal copies of the model fine-tuned with plain PyTorch."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.dense import LM_HEAD, full_layout
from heterotune.backbone.load import load_backbone, read_model
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.method_options import FedavgFullOptions, LocalConfig
from heterotune.data.tokenizing import Rows
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.fleet.model_types import read_model_types
from heterotune.training.chunk_batches import prepare_chunk
from heterotune.training.local import train_chunk
from heterotune.training.objective import client_losses
from heterotune.training.reference import train_full_model

CPU = torch.device("cpu")
SHAPE = (
    "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97,"
    "num_key_value_heads=2,initializer_range=0.2"
)
MODELS = {
    "tied": f"{SHAPE},tie_word_embeddings=true",
    "untied": f"{SHAPE},tie_word_embeddings=false",
    "biases": f"{SHAPE},tie_word_embeddings=true,attention_bias=true,mlp_bias=true",
}
# A large eps keeps Adam from magnifying the rounding of gradients that are nearly zero.
OPTIMIZERS = {
    "sgd, clipping": LocalConfig(steps=3, optimizer="sgd", learning_rate=0.3, clip_norm=0.05, batch_size=2),
    "adamw, cosine": LocalConfig(
        steps=3, optimizer="adamw", learning_rate=1e-3, eps=1e-3, schedule="cosine", batch_size=2
    ),
}


def make_backbone(model: str, **options):
    model_type = read_model_types((FleetEntry(name="tiny", model=MODELS[model], clients=4),))[0]
    return load_backbone(
        model_type, **{"ds_config": None, "dtype": "fp32", "checkpointing": False, "device": CPU, **options}
    )


def rows_of(num_clients: int) -> list[Rows]:
    result = []
    for client in range(num_clients):
        draw = np.random.default_rng(client)
        lengths = draw.integers(3, 5 + 4 * (client % 3), size=5)
        ids, targets = draw.integers(0, 97, size=(2, 5, 12))
        targets[np.arange(12)[None, :] >= lengths[:, None]] = -100
        result.append(Rows(input_ids=ids, targets=targets, lengths=lengths))
    return result


def batches_of(clients, num_steps, local):
    chunk = Chunk(0, tuple(clients), tuple(num_steps))
    return chunk, list(prepare_chunk(chunk, rows_of(4), local, run_seed=3, round_number=2).batches(CPU))


def start_differences(layout, num_clients: int) -> list[dict[str, torch.Tensor]]:
    """Client 0 begins with the pre-trained model, the others somewhere else."""
    draw = torch.Generator().manual_seed(1)
    return [
        {spec.name: torch.randn(spec.shape, generator=draw) * 0.02 * client for spec in layout.tensors}
        for client in range(num_clients)
    ]


def train_fused(backbone, starts, num_steps, local) -> list[dict[str, torch.Tensor]]:
    layout = full_layout(FedavgFullOptions(), backbone.model_type)
    own = dataclasses.replace(layout, tensors=tuple(dataclasses.replace(s, scope="client") for s in layout.tensors))
    bank = stack_clients(own, {}, starts, device=CPU, head_frame=None)
    attached = AttachedAdapter(own, backbone.llama)
    chunk, batches = batches_of([Client(k, 0, 5) for k in range(len(starts))], num_steps, local)
    trained = train_chunk(backbone, attached, bank, chunk, batches, local)
    attached.detach()
    return [{s.name: row[own.columns[s.name]].view(s.shape) for s in own.tensors} for row in trained.update_KP]


def train_plain(model_type, client: int, start, steps: int, local) -> dict[str, torch.Tensor]:
    """Fine-tune a copy of the whole model, in float64 so that only the fast path's rounding is seen."""
    lm = read_model(model_type, "fp32").double()
    parameters = dict(lm.named_parameters())
    names = {name: name if name == LM_HEAD else f"model.{name}" for name in start}
    assert set(parameters) == set(names.values())
    with torch.no_grad():
        for name, value in start.items():
            parameters[names[name]] += value
    before = {name: parameters[names[name]].detach().clone() for name in names}
    _, batches = batches_of([Client(client, 0, 5)], [steps], local)
    train_full_model(lm, [(batch.input_ids_RT, batch.targets_RT) for batch in batches], local)
    return {name: parameters[names[name]].detach() - before[name] for name in names}


def assert_exact(updates, references) -> None:
    for update, reference in zip(updates, references, strict=True):
        flat, expected = (torch.cat([t[name].flatten() for name in sorted(reference)]) for t in (update, reference))
        assert expected.norm() > 1e-3
        assert (flat - expected).norm() < 1e-5 * expected.norm()
        for name, value in reference.items():  # no tensor hides behind a larger one; Adam magnifies rounding
            assert value.norm() > 0, name
            assert (update[name] - value).norm() < 1e-3 * value.norm(), name


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("local", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [[3], [3, 1, 2]], ids=["chunk of 1", "chunk of 3"])
def test_a_chunk_is_its_clients_fine_tuned_one_by_one(model, local, num_steps):
    backbone = make_backbone(model)
    starts = start_differences(full_layout(FedavgFullOptions(), backbone.model_type), len(num_steps))
    updates = train_fused(backbone, starts, num_steps, local)
    references = [
        train_plain(backbone.model_type, client, start, steps, local)
        for client, (start, steps) in enumerate(zip(starts, num_steps, strict=True))
    ]
    assert_exact(updates, references)


@pytest.mark.parametrize("model", MODELS)
def test_at_the_start_every_clients_model_is_the_frozen_one(model):
    backbone = make_backbone(model)
    layout = full_layout(FedavgFullOptions(), backbone.model_type)
    bank = stack_clients(layout, {s.key: torch.zeros(s.shape) for s in layout.tensors}, [{}, {}, {}], device=CPU,
                         head_frame=None)  # fmt: skip
    _, (batch, *_) = batches_of([Client(k, 0, 5) for k in range(3)], [1, 1, 1], OPTIMIZERS["sgd, clipping"])
    frozen_RT = backbone.lm(batch.input_ids_RT, batch.targets_RT).detach()
    attached = AttachedAdapter(layout, backbone.llama)
    assert torch.equal(backbone.lm(batch.input_ids_RT, batch.targets_RT), frozen_RT)  # attached, but no bank in use
    with attached.use(bank):
        losses_K = client_losses(backbone, bank, batch)
    torch.testing.assert_close(losses_K, frozen_RT.view(3, -1).sum(1) / batch.num_targets_K, rtol=1e-6, atol=0)


def test_checkpointing_changes_no_update():
    starts = start_differences(full_layout(FedavgFullOptions(), make_backbone("tied").model_type), 2)
    local = OPTIMIZERS["adamw, cosine"]
    kept, recomputed = (
        train_fused(make_backbone("tied", checkpointing=checkpointing), starts, [3, 2], local)
        for checkpointing in (False, True)
    )
    assert all(torch.equal(kept[k][name], recomputed[k][name]) for k in range(2) for name in kept[k])


@pytest.mark.parametrize("model", MODELS)
def test_a_bf16_backbone_trains_fp32_differences(model):
    """As on a GPU: the sum is rounded to bf16, the difference itself is not."""
    local = OPTIMIZERS["sgd, clipping"]
    halved = make_backbone(model, dtype="bf16")
    starts = start_differences(full_layout(FedavgFullOptions(), halved.model_type), 2)
    found, expected = (train_fused(backbone, starts, [1, 1], local) for backbone in (halved, make_backbone(model)))
    for update, reference in zip(found, expected, strict=True):
        flat, wanted = (torch.cat([t[name].flatten() for name in sorted(reference)]) for t in (update, reference))
        assert flat.dtype == torch.float32 and torch.cosine_similarity(flat, wanted, dim=0) > 0.99


def test_a_padding_row_gets_no_gradient_from_the_input_side():
    """As in `nn.Embedding(padding_idx=...)`, which is what a model with a pad token has."""
    backbone = make_backbone("untied")
    backbone.llama.embed_tokens.padding_idx = 5
    _, (batch, *_) = batches_of([Client(0, 0, 5)], [1], OPTIMIZERS["sgd, clipping"])
    ids = torch.where(batch.input_ids_RT % 3 == 0, 5, batch.input_ids_RT)
    layout = full_layout(FedavgFullOptions(), backbone.model_type)
    bank = stack_clients(
        layout, {s.key: torch.ones(s.shape) for s in layout.tensors}, [{}], device=CPU, head_frame=None
    )
    with AttachedAdapter(layout, backbone.llama).use(bank):
        client_losses(backbone, bank, dataclasses.replace(batch, input_ids_RT=ids)).sum().backward()
    grad_VD = bank["embed_tokens.weight"].grad[0]
    assert not grad_VD[5].any() and grad_VD[ids[0, 1] if ids[0, 1] != 5 else ids[0, 0]].any()


@pytest.fixture
def one_rank_job(monkeypatch):
    """A torch.distributed job of this process alone."""
    from heterotune.backbone.zero3 import join_job

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    join_job(mpi_rank=0, num_ranks=1, device_index=0, store=dist.HashStore(), watchdog_seconds=60)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("model", ["tied", "untied"])
def test_the_same_under_zero3(one_rank_job, model):
    """ZeRO-3 takes every weight away after its layer ran; the backward pass must get it back."""
    local, num_steps = OPTIMIZERS["adamw, cosine"], [3, 1, 2]
    sharded = make_backbone(model, ds_config=read_ds_config("zero3_cpu"))
    assert sharded.in_lock_step
    starts = start_differences(full_layout(FedavgFullOptions(), sharded.model_type), 3)
    updates = train_fused(sharded, starts, num_steps, local)
    references = [
        train_plain(sharded.model_type, client, start, steps, local)
        for client, (start, steps) in enumerate(zip(starts, num_steps, strict=True))
    ]
    assert_exact(updates, references)
