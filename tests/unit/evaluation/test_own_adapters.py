"""Clients' own adapters side by side in one pass score their rows as each of them does alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.dema import dema_layout
from heterotune.adapters.dense import full_layout
from heterotune.backbone.load import load_backbone
from heterotune.collective.single import SingleChannel
from heterotune.config.data_options import DataConfig
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.method_options import FedavgFullOptions
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.corpora import Document
from heterotune.data.questions import make_questions
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.data.tokenizing import make_rows
from heterotune.evaluation.heldout import HeldoutEvaluation
from heterotune.evaluation.probes import gather_scores
from heterotune.fleet.model_types import read_model_types
from heterotune.fleet.placement import Seat

CPU = torch.device("cpu")
MODEL = "random:hidden_size=16,intermediate_size=24,num_hidden_layers=1,num_attention_heads=2,vocab_size=4096"
CLIENTS = (0, 2, 3)
PERSONAL_LORA = HeterotuneOptions(adapter_rank=2, head_rank=0, personal_rank=2)


@pytest.fixture(scope="module")
def backbone():
    model_type = read_model_types((FleetEntry(name="tiny", model=MODEL, clients=4),))[0]
    return load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=CPU)


@pytest.fixture(scope="module")
def data() -> FederatedData:
    documents = [
        Document("o", prompt=f"def f{i}({'x, ' * (i % 4)}): return", response=choices[i % 2], choices=choices)
        for i in range(9)
        for choices in [(" x", " self", " None") if i % 3 else (" x + 1", " self.x", "\n    return x")]
    ]
    owners = np.array([0, 0, 0, 0, 1, 2, 2, 3, -1])
    rows = make_rows(documents, load_tokenizer("embedded:small"), max_tokens=24)
    return FederatedData((), rows, owners, (), (), heldout_documents=tuple(documents))


@pytest.fixture(params=["personal LoRA", "whole models of their own"])
def adapters(request, backbone):
    """Adapters on the backbone, and what makes the bank of some clients, each with values of its own."""
    model_type = backbone.model_type
    layout = dema_layout(PERSONAL_LORA, model_type, [model_type])
    if request.param == "whole models of their own":
        layout = full_layout(FedavgFullOptions(), model_type)
    shared = {spec.key: torch.zeros(spec.shape) for spec in layout.travelling}

    def bank_of(clients):
        bank = stack_clients(layout, shared, _own(layout, clients), device=CPU, head_frame=None)
        for values, client in zip(bank.values_KP, clients, strict=True):
            values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(client)) * 0.1)
        return bank

    attached = AttachedAdapter(layout, backbone.llama)
    yield attached, bank_of
    attached.detach()


def _own(layout, clients):
    return [{spec.name: torch.zeros(spec.shape) for spec in layout.tensors if spec.scope == "client"} for _ in clients]


def evaluation_of(data, clients=CLIENTS, **options) -> HeldoutEvaluation:
    chosen = EvaluateConfig(metrics=("loss", "accuracy"), **options)
    questions = make_questions(
        data, load_tokenizer("embedded:small"), DataConfig(source="embedded:stdlib", max_tokens=24), chosen
    )
    return HeldoutEvaluation(data, questions, chosen, [clients], CPU)


@pytest.mark.parametrize("max_clients", [1, 3])
def test_side_by_side_as_alone(backbone, data, adapters, max_clients) -> None:
    attached, bank_of = adapters
    evaluation = evaluation_of(data, batch_size=8)
    scores = evaluation.score(backbone, attached, bank_of([9]), Seat(0, 1), bank_of, max_clients)
    found = {m.full_name: m for m in evaluation.measures(0, gather_scores(scores, SingleChannel()))}
    assert list(found) == ["loss/eval", "accuracy/eval", "loss/personal", "accuracy/personal"]
    for client in CLIENTS:
        alone = evaluation_of(data, batch_size=8)
        as_global = alone.measures(0, alone.score(backbone, attached, bank_of([client]), Seat(0, 1)))
        loss, accuracy = (measure.of_client[client] for measure in as_global)
        assert found["loss/personal"].of_client[client] == pytest.approx(loss, rel=1e-5)
        assert found["accuracy/personal"].of_client[client] == accuracy
    assert found["loss/personal"].of_client.keys() == set(CLIENTS), (
        "row 8 is nobody's, row 4 is another type's client's"
    )
    rows = {0: 4, 2: 2, 3: 1}
    of_client = found["accuracy/personal"].of_client
    assert found["accuracy/personal"].value == pytest.approx(sum(rows[c] * of_client[c] for c in CLIENTS) / 7)
    tokens = {c: int((data.heldout.targets[data.heldout_clients == c] >= 0).sum()) for c in CLIENTS}
    losses = found["loss/personal"].of_client
    weighted = sum(tokens[c] * losses[c] for c in CLIENTS) / sum(tokens.values())
    assert found["loss/personal"].value == pytest.approx(weighted)


def test_types_whose_clients_have_no_held_out_row_have_no_personal_figures(backbone, data, adapters) -> None:
    attached, bank_of = adapters
    evaluation = evaluation_of(data, clients=(7,))
    measures = evaluation.measures(0, evaluation.score(backbone, attached, bank_of([9]), Seat(0, 1), bank_of))
    assert [(m.full_name, dict(m.of_client)) for m in measures] == [("loss/eval", {}), ("accuracy/eval", {})]
