"""Local training of a chunk: its clients make their steps together, each on its own rows, in one pass per step.

Legend: K clients, P trained elements per client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.config.schema import LocalConfig
from heterotune.fleet.chunks import Chunk
from heterotune.training.objective import ChunkBatch, client_losses, idle_batch
from heterotune.training.optimizers import ChunkOptimizer

# A strategy's own loss term, e.g. a proximal one: (bank, values at the start of the round (K, P)) -> loss (K,).
# It must be written in the bank's tensors, `bank[name]`, to be differentiable.
LossTerm = Callable[[Bank, Tensor], Tensor]


@dataclass(frozen=True)
class TrainedChunk:
    """What came out of a chunk.

    Attributes:
        chunk: Which clients.
        update_KP: After minus before, float32 on the CPU.
        values_KP: After, float32 on the CPU.
        loss_K: Mean training loss over each client's own steps, nats per token, float32.
    """

    chunk: Chunk
    update_KP: Tensor
    values_KP: Tensor
    loss_K: Tensor


def train_chunk(
    backbone: Backbone,
    attached: AttachedAdapter,
    bank: Bank,
    chunk: Chunk,
    batches: Iterable[ChunkBatch],
    local: LocalConfig,
    *,
    loss_term: LossTerm | None = None,
) -> TrainedChunk:
    """Train the clients of a chunk for a round; makes exactly `chunk.num_passes` passes over the backbone.

    Args:
        backbone: The frozen model.
        attached: This layout's adapters on it.
        bank: The clients' adapters; changed in place.
        chunk: The clients and their steps.
        batches: One for each pass, rows in client order.
        local: Optimiser, clipping and schedule.
        loss_term: What a strategy adds to each client's loss.
    """
    optimizer = ChunkOptimizer(bank.layout, bank.values_KP, local, chunk.num_steps)
    loss_sum_K = torch.zeros(bank.num_clients, device=bank.values_KP.device)
    with attached.use(bank):
        for batch in batches:
            active_K = optimizer.active()
            bank.zero_grad()
            losses_K = client_losses(backbone, bank, batch)
            if loss_term is not None:
                losses_K = losses_K + loss_term(bank, bank.start_KP)
            # Each client's tensors see its own loss only, so the sum keeps gradients apart.
            (losses_K * active_K).sum().backward()
            optimizer.step(bank.grads_KP)
            loss_sum_K += losses_K.detach() * active_K
    assert optimizer.step_number == chunk.num_passes
    return TrainedChunk(
        chunk,
        # Gradients are no longer needed: the update takes their place instead of more memory.
        update_KP=torch.sub(bank.values_KP, bank.start_KP, out=bank.grads_KP).cpu(),
        values_KP=bank.values_KP.cpu(),
        loss_K=(loss_sum_K / loss_sum_K.new_tensor(chunk.num_steps)).cpu(),
    )


def idle_training_pass(backbone: Backbone, attached: AttachedAdapter, idle_bank: Bank) -> None:
    """Run forward and backward over one row that counts for nothing, to stay in lock step with ranks that train."""
    with attached.use(idle_bank):
        client_losses(backbone, idle_bank, idle_batch(backbone.device)).sum().backward()


@torch.no_grad()
def idle_evaluation_pass(backbone: Backbone, attached: AttachedAdapter, idle_bank: Bank) -> None:
    """Run forward over one row that counts for nothing, to stay in lock step with ranks that evaluate."""
    with attached.use(idle_bank):
        client_losses(backbone, idle_bank, idle_batch(backbone.device))
