"""A chunk trained in one pass equals its clients trained one after the other with plain PyTorch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import HeadFrame, stack_clients
from heterotune.adapters.dema import dema_layout
from heterotune.adapters.layout import AdapterLayout
from heterotune.backbone.load import load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.method_options import LocalConfig
from heterotune.data.tokenizing import Rows
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.fleet.model_types import read_model_types
from heterotune.training.chunk_batches import prepare_chunk
from heterotune.training.local import train_chunk
from heterotune.training.local_rule import LocalRule
from heterotune.training.reference import train_client

RANDOM = (
    "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,vocab_size=97,"
    "num_key_value_heads=2"
)
# Rates are small: what is compared is rounding, and large steps on a random model would amplify it.
OPTIMIZERS = {
    "sgd": LocalConfig(steps=3, optimizer="sgd", learning_rate=0.03, clip_norm=None, batch_size=2),
    "sgd, decay, clipping": LocalConfig(
        steps=3, optimizer="sgd", learning_rate=0.3, weight_decay=0.1, clip_norm=0.05, batch_size=2
    ),
    "momentum, linear": LocalConfig(steps=4, optimizer="momentum", learning_rate=0.03, schedule="linear", batch_size=2),
    "adamw, cosine, warm-up": LocalConfig(
        steps=4,
        optimizer="adamw",
        learning_rate=1e-2,
        weight_decay=0.1,
        schedule="cosine",
        warmup_steps=2,
        batch_size=2,
    ),
}


@pytest.fixture(scope="module")
def model_type():
    return read_model_types((FleetEntry(name="tiny", model=RANDOM, clients=4),))[0]


@pytest.fixture(scope="module")
def backbone(model_type):
    return load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=torch.device("cpu"))


def make_layout(model_type, **options) -> AdapterLayout:
    given = HeterotuneOptions(**{"adapter_rank": 3, "head_rank": 4, "head_basis": 5, **options})
    options = given.settled(asks_questions=False, families=("large",), rounds=1, optimizer="adamw")
    layout = dema_layout(options, model_type, [model_type])
    plain = tuple(dataclasses.replace(spec, one_second_moment=False) for spec in layout.tensors)
    return dataclasses.replace(layout, tensors=plain)


def make_frame(width: int) -> HeadFrame:
    draw = torch.Generator().manual_seed(5)
    down = (
        torch.randn(4, width, generator=draw) / width**0.5
    )  # coordinates of about unit variance, as alignment makes them
    return HeadFrame(down, torch.randn(width, generator=draw), torch.randn(5, 97, generator=draw))


def make_rows(num_rows: int, longest: int, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, longest + 1, size=num_rows)
    ids = draw.integers(0, 97, size=(num_rows, 12))
    targets = draw.integers(0, 97, size=(num_rows, 12))
    targets[np.arange(12)[None, :] >= lengths[:, None]] = -100
    return Rows(input_ids=ids, targets=targets, lengths=lengths)


def start_values(layout: AdapterLayout, num_clients: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        {spec.name: torch.randn(spec.shape, generator=draw) * 0.1 for spec in layout.tensors}
        for _ in range(num_clients)
    ]


def train_both(backbone, layout, local, *, num_steps, loss_term=None, penalty=None, with_reference=True, base=None):
    """Return (fused updates by client and name, reference updates by client and name)."""
    clients = tuple(Client(client_id, 0, 5) for client_id in range(len(num_steps)))
    chunk = Chunk(0, clients, tuple(num_steps))
    rows = [make_rows(5, longest=4 + 4 * (c.client_id % 3), seed=c.client_id) for c in clients]
    frame = make_frame(backbone.model_type.width)
    starts = start_values(layout, len(clients))
    personal = tuple(dataclasses.replace(spec, scope="client") for spec in layout.tensors)
    own = dataclasses.replace(layout, tensors=personal)  # every client begins somewhere else
    bank = stack_clients(own, {}, starts, device=backbone.device, head_frame=frame, base=base)
    attached = AttachedAdapter(own, backbone.llama)

    def batches_of(chunk):
        return list(prepare_chunk(chunk, rows, local, run_seed=3, round_number=2).batches(backbone.device))

    fused = train_chunk(backbone, attached, bank, chunk, batches_of(chunk), local, LocalRule(loss_term=loss_term))
    attached.detach()
    references = []
    for client, steps, start in zip(clients, num_steps, starts, strict=True) if with_reference else ():
        alone = Chunk(0, (client,), (steps,))
        batches = [(b.input_ids_RT, b.targets_RT) for b in batches_of(alone)]
        references.append(train_client(backbone.lm, layout, start, frame, batches, local, penalty=penalty, base=base))
    updates = [
        {spec.name: fused.update_KP[k, own.columns[spec.name]].view(spec.shape) for spec in own.tensors}
        for k in range(len(clients))
    ]
    return updates, references


def assert_close(updates, references, relative=1e-5):
    for client, (update, reference) in enumerate(zip(updates, references, strict=True)):
        flat = torch.cat([update[name].flatten() for name in sorted(reference)])
        expected = torch.cat([reference[name].flatten() for name in sorted(reference)])
        error = (flat - expected).norm() / expected.norm()
        assert expected.norm() > 1e-4
        assert error < relative, f"client {client}: relative error {error:.2e}"


@pytest.mark.parametrize("local", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_unequal_lengths_and_steps(backbone, model_type, local):
    layout = make_layout(model_type)
    updates, references = train_both(backbone, layout, local, num_steps=[local.steps, 1, local.steps - 1])
    assert_close(updates, references)


@pytest.mark.parametrize("local", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_chunk_of_one(backbone, model_type, local):
    updates, references = train_both(backbone, make_layout(model_type), local, num_steps=[local.steps])
    assert_close(updates, references)


@pytest.mark.parametrize(
    "options",
    [
        {"personal_rank": 2},
        {"gates": "trained"},
        {"head_rank": 0},
        {"lora_layers": 1},
        {"lora_layers": 0},
        {"targets": ("q_proj", "down_proj")},
        {"activation": "silu"},
        {"activation": "silu", "personal_rank": 2, "gates": "trained"},
    ],
    ids=str,
)
def test_every_kind_of_branch(backbone, model_type, options):
    layout = make_layout(model_type, **options)
    updates, references = train_both(backbone, layout, OPTIMIZERS["momentum, linear"], num_steps=[4, 4, 2])
    assert_close(updates, references)


def test_a_proximal_loss_term(backbone, model_type):
    layout = make_layout(model_type)

    def proximal(bank, start_KP):
        distances = 0.0
        for spec in bank.layout.tensors:
            start = start_KP[:, bank.layout.columns[spec.name]].view_as(bank[spec.name])
            distances = distances + (bank[spec.name] - start).square().flatten(1).sum(dim=1)
        return 0.5 * 3.0 * distances

    def penalty(values, start):
        return 0.5 * 3.0 * sum((values[name] - start[name]).square().sum() for name in values)

    local = OPTIMIZERS["sgd"]
    updates, references = train_both(backbone, layout, local, num_steps=[3, 2], loss_term=proximal, penalty=penalty)
    assert_close(updates, references)
    without, _ = train_both(backbone, layout, local, num_steps=[3, 2])
    assert any((without[0][name] - updates[0][name]).abs().max() > 1e-4 for name in without[0])


def test_gradients_do_not_mix(backbone, model_type):
    """A client's update does not change when its neighbours' data does."""
    layout = make_layout(model_type)
    alone, _ = train_both(backbone, layout, OPTIMIZERS["sgd"], num_steps=[3, 3])
    crowded, _ = train_both(backbone, layout, OPTIMIZERS["sgd"], num_steps=[3, 3, 3, 3])
    assert_close(crowded[:2], alone)


@pytest.mark.parametrize("lora_layers", ["all", 1, 0])
def test_checkpointing_changes_no_update(backbone, model_type, lora_layers):
    """The backward pass runs the layers again, adapters included."""
    recomputing = load_backbone(
        model_type, ds_config=None, dtype="fp32", checkpointing=True, device=torch.device("cpu")
    )
    layout, local = make_layout(model_type, lora_layers=lora_layers), OPTIMIZERS["momentum, linear"]
    kept, _ = train_both(backbone, layout, local, num_steps=[4, 2], with_reference=False)
    recomputed, _ = train_both(recomputing, layout, local, num_steps=[4, 2], with_reference=False)
    assert all(torch.equal(kept[k][name], recomputed[k][name]) for k in range(2) for name in kept[k])


def test_a_changed_base_is_part_of_every_clients_model(backbone, model_type):
    layout, local = make_layout(model_type, head_rank=0), OPTIMIZERS["sgd"]
    draw = torch.Generator().manual_seed(9)
    base = {
        branch.module: torch.randn(backbone.lm.llama.get_submodule(branch.module).weight.shape, generator=draw) * 0.1
        for branch in layout.branches[::2]
    }
    plain, _ = train_both(backbone, layout, local, num_steps=[3, 2], with_reference=False)
    updates, references = train_both(backbone, layout, local, num_steps=[3, 2], base=base)
    assert_close(updates, references)
    name = layout.branches[0].up
    assert not torch.allclose(updates[0][name], plain[0][name], rtol=0.01)
