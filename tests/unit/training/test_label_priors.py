"""Logit adjustment: what clients add to label words, and that the loss has it where an answer begins only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import HeadFrame, stack_clients
from heterotune.adapters.dema import dema_layout
from heterotune.backbone.load import load_backbone
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.data.rows import IGNORED, Rows
from heterotune.fleet.model_types import read_model_types
from heterotune.training.label_priors import LabelPriors
from heterotune.training.objective import ChunkBatch, log_probabilities, token_losses

CPU = torch.device("cpu")
VOCAB = 32
MODEL = f"random:hidden_size=16,intermediate_size=24,num_hidden_layers=1,num_attention_heads=2,vocab_size={VOCAB}"
WORDS = (7, 9, 11)  # the first tokens of labels 0, 1, 2
END = 1


def rows_with(*labels: int) -> Rows:
    """Return rows of two prompt tokens, a label's word and the end."""
    ids = np.array([[3, 4 + place % 3, WORDS[label]] for place, label in enumerate(labels)])
    targets = np.array([[IGNORED, WORDS[label], END] for label in labels])
    return Rows(ids, targets, np.full(len(labels), 3), np.array(labels))


def test_a_label_that_is_rare_with_a_client_is_expected_less() -> None:
    skewed = rows_with(0, 0, 0, 1)
    priors = LabelPriors.of_rows([skewed, rows_with(2)], 3, VOCAB, smoothing=0.3)
    expected = np.zeros(VOCAB)
    for word, count in zip(WORDS, (3, 1, 0), strict=True):
        expected[word] = np.log((0.7 * count / 4 + 0.3 / 3) * 3)
    np.testing.assert_allclose(priors.offsets(skewed), expected, rtol=1e-6)


def test_balanced_clients_and_labels_that_nobody_has_change_nothing() -> None:
    priors = LabelPriors.of_rows([rows_with(0, 2, 0, 2)], 2 + 1, VOCAB, smoothing=1.0)
    assert not priors.offsets(rows_with(0, 0)).any(), "all of the prior is spread equally"
    balanced = LabelPriors.of_rows([rows_with(0, 1, 2)], 3, VOCAB, smoothing=0.2)
    np.testing.assert_allclose(balanced.offsets(rows_with(2, 1, 0)), 0.0, atol=1e-6)


def test_labels_that_begin_alike_are_one() -> None:
    priors = LabelPriors(np.array([5, 5, 8]), VOCAB, smoothing=0.5)
    offset_V = priors.offsets(rows_with(0, 0))
    np.testing.assert_allclose(offset_V[[5, 8]], np.log([(0.5 + 1 / 3) / (2 / 3), (1 / 6) / (1 / 3)]), rtol=1e-6)


@pytest.mark.parametrize("head_rank", [0, 4])
def test_the_loss_has_each_clients_offsets_where_its_answers_begin(head_rank: int) -> None:
    model_type = read_model_types((FleetEntry(name="tiny", model=MODEL, clients=2),))[0]
    backbone = load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=CPU)
    options = HeterotuneOptions(adapter_rank=2, head_rank=head_rank, head_basis=6, head_scope="fleet")
    layout = dema_layout(options, model_type, [model_type])
    draw = torch.Generator().manual_seed(4)
    shared = {spec.key: torch.randn(spec.shape, generator=draw) * 0.3 for spec in layout.travelling}
    frame = None
    if head_rank:
        frame = HeadFrame(*(torch.randn(s, generator=draw) for s in ((4, 16), (16,), (6, VOCAB))))
    bank = stack_clients(layout, shared, [{}, {}], device=CPU, head_frame=frame)
    of_client = [rows_with(0, 0, 1), rows_with(2, 2, 0)]
    priors = LabelPriors.of_rows(of_client, 3, VOCAB, smoothing=0.2)
    offset_KV = np.stack([priors.offsets(rows) for rows in of_client])
    ids, targets = (np.concatenate([getattr(rows, name) for rows in of_client]) for name in ("input_ids", "targets"))
    attached = AttachedAdapter(layout, backbone.llama)
    with attached.use(bank):
        plain = ChunkBatch.of_rows(ids, targets, 2, CPU)
        found = token_losses(backbone, bank, ChunkBatch.of_rows(ids, targets, 2, CPU, None, offset_KV))
        without = token_losses(backbone, bank, plain)
        logits = log_probabilities(backbone, bank, plain).view(6, 2, VOCAB)
    adjusted = logits[:, 0] + torch.from_numpy(offset_KV).repeat_interleave(3, dim=0)
    expected = torch.nn.functional.cross_entropy(adjusted, torch.from_numpy(targets[:, 1]), reduction="none")
    torch.testing.assert_close(found[:, 1], expected)
    torch.testing.assert_close(found[:, 2], without[:, 2])
    found.sum().backward()
    assert bank.grads_KP.abs().sum() > 0
