"""FedProto: features, the pull towards prototypes, what is sent, and the mean over those that have a class."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.prototypes import OWN_PROJECTION, PROJECTION, PROTOTYPES, SEEN, fedproto_layout
from heterotune.backbone.load import load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterogeneous_options import FedprotoOptions
from heterotune.data.tokenizing import IGNORED
from heterotune.fleet.model_types import read_model_types
from heterotune.server import GlobalAdapters
from heterotune.strategies.fedproto import _ClassFeatures, combine
from heterotune.strategies.strategy import ServerRound, TypeUpdate
from heterotune.training.objective import ChunkBatch, client_losses

SHAPE = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=40,num_hidden_layers=2"
OPTIONS = FedprotoOptions(adapter_rank=2, feature_width=3, num_classes=4)


@pytest.fixture(scope="module")
def setting():
    model_type = read_model_types((FleetEntry(name="a", model=SHAPE, clients=2),))[0]
    backbone = load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=torch.device("cpu"))
    return backbone, fedproto_layout(OPTIONS, model_type)


def bank_of(layout):
    adapters = GlobalAdapters([layout], run_seed=5)
    adapters.values[f"fleet/{PROTOTYPES}"] = torch.arange(12.0).view(4, 3) / 10
    adapters.values[f"fleet/{SEEN}"] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    draw = torch.Generator().manual_seed(3)
    own = [spec for spec in layout.tensors if spec.scope == "client"]
    personal = [{spec.name: 0.1 * torch.randn(spec.shape, generator=draw) for spec in own} for _ in range(2)]
    return stack_clients(layout, adapters.shared, personal, device=torch.device("cpu"), head_frame=None)


def batch_of():
    ids = torch.randint(40, (4, 6), generator=torch.Generator().manual_seed(4))
    targets = torch.full_like(ids, IGNORED)
    targets[0, 2:4], targets[1, 5:], targets[2, 1:] = ids[0, 3:5], 7, 9  # the last row counts for nothing
    return ChunkBatch(ids, targets, torch.tensor([3, 5]), torch.tensor([2, 1, 2, 0]))


def test_the_objective_pulls_features_towards_known_prototypes(setting):
    backbone, layout = setting
    bank, batch = bank_of(layout), batch_of()
    attached = AttachedAdapter(layout, backbone.llama)
    try:
        with attached.use(bank):
            found = _ClassFeatures(0.5).objective(backbone, bank, batch)
            plain = client_losses(backbone, bank, batch)
            hidden = backbone.lm(batch.input_ids_RT, None)
    finally:
        attached.detach()
    projection = bank[PROJECTION] + bank[OWN_PROJECTION]
    prototypes = torch.arange(12.0).view(4, 3) / 10
    first = (projection[0] @ hidden[0, 2] - prototypes[2]).square().mean()  # its second row's class has no prototype
    second = (projection[1] @ hidden[2, 1] - prototypes[2]).square().mean()
    torch.testing.assert_close(found - plain, 0.5 * torch.stack([first, second]))
    found.sum().backward()
    assert bank[OWN_PROJECTION].grad.abs().sum() > 0 and not bank[PROJECTION].requires_grad


def test_clients_send_the_mean_feature_of_each_class_that_they_have(setting):
    backbone, layout = setting
    bank, batch, features = bank_of(layout), batch_of(), _ClassFeatures(1.0)
    attached = AttachedAdapter(layout, backbone.llama)
    try:
        with attached.use(bank):
            features.objective(backbone, bank, batch)
            features.objective(backbone, bank, batch)
            hidden = backbone.lm(batch.input_ids_RT, None)
    finally:
        attached.detach()
    features.finish(bank, torch.zeros(2, 1))
    sent_KP = bank.values_KP - bank.start_KP
    means_KCP = sent_KP[:, layout.columns[PROTOTYPES]].view(2, 4, 3)
    has_KC = sent_KP[:, layout.columns[SEEN]]
    assert has_KC.tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    projection = bank[PROJECTION] + bank[OWN_PROJECTION]
    torch.testing.assert_close(means_KCP[0, 1], projection[0] @ hidden[1, 5])
    torch.testing.assert_close(means_KCP[1, 2], projection[1] @ hidden[2, 1])
    assert not means_KCP[1, [0, 1, 3]].any()


def test_a_prototype_becomes_the_plain_mean_over_the_clients_that_have_its_class():
    # Type a has 3 clients, of which 2 have class 0 and 1 has class 1; type b has 1 client with class 0.
    sums_a, sums_b = torch.tensor([[2.0, 4.0], [3.0, 3.0], [0.0, 0.0]]), torch.tensor([[7.0, 5.0], [0, 0], [0, 0]])
    has_a, has_b = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    updates = [
        TypeUpdate(name, count, {f"fleet/{PROTOTYPES}": sums.double().flatten() / count, f"fleet/{SEEN}": has / count})
        for name, count, sums, has in (("a", 3, sums_a, has_a.double()), ("b", 1, sums_b, has_b.double()))
    ]
    before = {f"fleet/{PROTOTYPES}": torch.ones(3, 2), f"fleet/{SEEN}": torch.tensor([1.0, 0.0, 1.0])}
    change = combine(updates, ServerRound(values=before)).change
    after = before[f"fleet/{PROTOTYPES}"] + change[f"fleet/{PROTOTYPES}"].view(3, 2)
    torch.testing.assert_close(after, torch.tensor([[3.0, 3.0], [3.0, 3.0], [1.0, 1.0]], dtype=torch.float64))
    assert change[f"fleet/{SEEN}"].tolist() == [0.0, 1.0, 0.0]
