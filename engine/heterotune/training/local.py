"""Local training of a chunk: its clients make their steps together, each on its own rows, in one pass per step.

Legend: K clients, P trained elements per client.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.config.method_options import LocalConfig
from heterotune.fleet.chunks import Chunk
from heterotune.training.local_rule import PLAIN, LocalRule
from heterotune.training.objective import ChunkBatch, idle_batch
from heterotune.training.optimizers import ChunkOptimizer


@dataclass(frozen=True)
class TrainedChunk:
    """What came out of a chunk.

    Attributes:
        chunk: Which clients.
        update_KP: After minus before, float32 on the CPU.
        values_KP: After, float32 on the CPU.
        loss_K: Mean training loss over each client's own steps, nats per token, float32.
        square_K: Mean of the squares of these losses, float32.
    """

    chunk: Chunk
    update_KP: Tensor
    values_KP: Tensor
    loss_K: Tensor
    square_K: Tensor


def train_chunk(
    backbone: Backbone,
    attached: AttachedAdapter,
    bank: Bank,
    chunk: Chunk,
    batches: Iterable[ChunkBatch],
    local: LocalConfig,
    rule: LocalRule = PLAIN,
) -> TrainedChunk:
    """Train the clients of a chunk for a round; makes exactly `chunk.num_passes` passes over the backbone.

    Args:
        backbone: The frozen model.
        attached: This layout's adapters on it.
        bank: The clients' adapters; changed in place.
        chunk: The clients and their steps.
        batches: One for each pass, rows in client order.
        local: Optimiser, clipping and schedule.
        rule: What the method changes of it.
    """
    optimizer = ChunkOptimizer(bank.layout, bank.values_KP, local, chunk.num_steps)
    loss_sum_K = torch.zeros(bank.num_clients, device=bank.values_KP.device)
    square_sum_K = torch.zeros_like(loss_sum_K)
    rate_sum_K1 = torch.zeros_like(loss_sum_K).unsqueeze(1)
    with attached.use(bank):
        for batch in batches:
            active_K = optimizer.active()
            bank.zero_grad()
            losses_K = rule.objective(backbone, bank, batch)
            loss_sum_K += losses_K.detach() * active_K
            square_sum_K += losses_K.detach().square() * active_K
            if rule.loss_term is not None:
                losses_K = losses_K + rule.loss_term(bank, bank.start_KP)
            # Each client's tensors see its own loss only, so the sum keeps gradients apart.
            (losses_K * active_K).sum().backward()
            rate_K1 = optimizer.step(bank.grads_KP)
            if rule.after_step is not None:
                rule.after_step(bank, rate_K1)
            rate_sum_K1 += rate_K1
    assert optimizer.step_number == chunk.num_passes
    if rule.finish is not None:
        rule.finish(bank, rate_sum_K1)
    num_steps_K = loss_sum_K.new_tensor(chunk.num_steps)
    return TrainedChunk(
        chunk,
        # Gradients are no longer needed: the update takes their place instead of more memory.
        update_KP=torch.sub(bank.values_KP, bank.start_KP, out=bank.grads_KP).cpu(),
        values_KP=bank.values_KP.cpu(),
        loss_K=(loss_sum_K / num_steps_K).cpu(),
        square_K=(square_sum_K / num_steps_K).cpu(),
    )


def idle_training_pass(backbone: Backbone, attached: AttachedAdapter, idle_bank: Bank, rule: LocalRule = PLAIN) -> None:
    """Run forward and backward over one row that counts for nothing, to stay in lock step with ranks that train."""
    with attached.use(idle_bank):
        rule.objective(backbone, idle_bank, idle_batch(backbone.device)).sum().backward()
