"""One kind of question to the models: its passes are dealt to ranks, and the root gets what came out of every pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.collective.channel import Channel
from heterotune.evaluation.passes import RowPass
from heterotune.fleet.placement import Seat
from heterotune.training.objective import ChunkBatch, idle_batch, mean_by_client, token_losses

Score = Callable[[Backbone, Bank, ChunkBatch, RowPass | None], list[float]]
"""Runs a batch and returns what is wanted of it; without a pass it only keeps step with ranks that have one."""


@dataclass(frozen=True)
class Probe:
    """Passes, and what is wanted of each.

    Attributes:
        name: Tells probes of a model type apart.
        passes: The same on every rank.
        score: What comes out of a pass.
    """

    name: str
    passes: Sequence[RowPass]
    score: Score


@dataclass(frozen=True)
class PassScore:
    """What came out of one pass of a probe on a model type."""

    model_type: int
    probe: str
    number: int
    values: tuple[float, ...]


@torch.no_grad()
def run_probe(
    probe: Probe,
    backbone: Backbone,
    attached: AttachedAdapter,
    bank: Bank,
    own_bank: Callable[[Sequence[int]], Bank] | None,
    seat: Seat,
) -> list[PassScore]:
    """Make this rank's share of a probe's passes. Every rank that holds the model type must call this.

    All of them take the same number of turns.

    Args:
        probe: The passes.
        backbone: The model type's backbone.
        attached: The strategy's adapters on it.
        bank: The global adapter, as the bank of one client.
        own_bank: Makes the bank of clients with each its own adapter; None if no pass asks for one.
        seat: Says which share is this rank's.
    """
    scores = []
    for turn in range(-(-len(probe.passes) // seat.num_ranks)):
        number = turn * seat.num_ranks + seat.number
        row_pass = probe.passes[number] if number < len(probe.passes) else None
        batch = idle_batch(backbone.device) if row_pass is None else row_pass.batch
        used = own_bank(row_pass.clients) if row_pass is not None and row_pass.clients else bank
        with attached.use(used):
            values = probe.score(backbone, used, batch, row_pass)
        if row_pass is not None:
            scores.append(PassScore(backbone.model_type.index, probe.name, number, tuple(values)))
    return scores


def gather_scores(scores: Sequence[PassScore], channel: Channel) -> list[PassScore] | None:
    """Bring all scores to the root, by model type, probe and pass. Every rank must call this; None elsewhere."""
    rows = [(score.model_type, score.probe, score.number, score.values) for score in scores]
    gathered = channel.gather_bytes(json.dumps(rows).encode())
    if gathered is None:
        return None
    found = [PassScore(*row[:3], tuple(row[3])) for part in gathered for row in json.loads(part)]
    return sorted(found, key=lambda score: (score.model_type, score.probe, score.number))


def score_losses(backbone: Backbone, bank: Bank, batch: ChunkBatch, row_pass: RowPass | None) -> list[float]:
    """Return each client's mean loss per token, then each row's sum of losses; both in nats."""
    losses_RT = token_losses(backbone, bank, batch)
    return [*mean_by_client(losses_RT, batch).tolist(), *losses_RT.double().sum(dim=1).tolist()]
