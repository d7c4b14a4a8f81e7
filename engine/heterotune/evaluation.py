"""The global adapter of every model type on held-out text. Batches are dealt to ranks; sums add up in batch order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.collective.channel import Channel
from heterotune.data.tokenizing import Rows
from heterotune.training.local import idle_evaluation_pass
from heterotune.training.objective import ChunkBatch, client_losses


@dataclass(frozen=True)
class BatchScore:
    """A held-out batch of one model type: its place, its mean loss in nats per token and its tokens."""

    model_type: int
    batch: int
    loss: float
    num_tokens: int


def heldout_batches(heldout: Rows, batch_size: int, device: torch.device) -> list[ChunkBatch]:
    """Cut the held-out rows into batches, longest rows first so that little is padding."""
    order = np.argsort(-heldout.lengths, kind="stable")
    result = []
    for start in range(0, len(order), batch_size):
        picks = order[start : start + batch_size]
        num_tokens = int(heldout.lengths[picks].max())
        ids, targets = heldout.input_ids[picks, :num_tokens], heldout.targets[picks, :num_tokens]
        result.append(ChunkBatch.of_rows(ids, targets, 1, device))
    return result


@torch.no_grad()
def score_model_type(
    backbone: Backbone, attached: AttachedAdapter, bank: Bank, batches: Sequence[ChunkBatch], channel: Channel
) -> list[BatchScore]:
    """Score this rank's share of the held-out batches. Every rank must call this; all make the same number of passes.

    Args:
        backbone: The model type's backbone.
        attached: The strategy's adapters on it.
        bank: The global adapter, as the bank of one client.
        batches: All held-out batches, the same on every rank.
        channel: Says which share is this rank's.
    """
    scores = []
    num_passes = -(-len(batches) // channel.num_ranks)
    for turn in range(num_passes):
        number = turn * channel.num_ranks + channel.mpi_rank
        if number >= len(batches):
            idle_evaluation_pass(backbone, attached, bank)
            continue
        with attached.use(bank):
            loss = client_losses(backbone, bank, batches[number]).double().item()
        scores.append(BatchScore(backbone.model_type.index, number, loss, int(batches[number].num_targets_K.item())))
    return scores


def gather_scores(scores: Sequence[BatchScore], channel: Channel) -> list[BatchScore] | None:
    """Bring all scores to the root, ordered by model type and batch. Every rank must call this.

    Returns:
        At the root every score; elsewhere None.
    """
    rows = [(score.model_type, score.batch, score.loss, score.num_tokens) for score in scores]
    gathered = channel.gather_bytes(json.dumps(rows).encode())
    if gathered is None:
        return None
    return sorted(
        (BatchScore(*row) for part in gathered for row in json.loads(part)), key=lambda s: (s.model_type, s.batch)
    )


def mean_loss(scores: Sequence[BatchScore]) -> float:
    """Return the loss per token over batches, in nats, added in their order."""
    return sum(score.loss * score.num_tokens for score in scores) / sum(score.num_tokens for score in scores)
