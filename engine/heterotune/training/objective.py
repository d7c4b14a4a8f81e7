"""What a client minimises, for all clients of a chunk at once.

Legend: K clients, B rows each, R = K·B rows, T tokens, P trained elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.attach import head_features
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.data.tokenizing import IGNORED


@dataclass(frozen=True)
class ChunkBatch:
    """One step's rows of a chunk, in client order.

    Attributes:
        input_ids_RT: int64, right-padded.
        targets_RT: int64, `IGNORED` where a token does not count.
        num_targets_K: Tokens that count, per client.
        labels_R: Class of each row, int64, -1 = none; None where no method looks at them.
    """

    input_ids_RT: Tensor
    targets_RT: Tensor
    num_targets_K: Tensor
    labels_R: Tensor | None = None

    @classmethod
    def of_rows(
        cls,
        input_ids_RT: np.ndarray,
        targets_RT: np.ndarray,
        num_clients: int,
        device: torch.device,
        labels_R: np.ndarray | None = None,
    ) -> ChunkBatch:
        """Bring rows of `num_clients` clients, in equal parts, to a device and count their targets."""
        num_targets_K = (targets_RT != IGNORED).reshape(num_clients, -1).sum(axis=1)
        arrays = [input_ids_RT, targets_RT, num_targets_K, *([] if labels_R is None else [labels_R])]
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


def client_losses(backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
    """Return each client's mean loss per token in nats, float32 (K,), differentiable in the bank's tensors.

    The bank must be in use on the backbone (`AttachedAdapter.use`), and stay so until the backward pass is done: with
    checkpointing the backward pass runs the layers again. With a backbone in lock step every rank must call this.
    """
    return mean_by_client(token_losses(backbone, bank, batch), batch)


def mean_by_client(losses_RT: Tensor, batch: ChunkBatch) -> Tensor:
    """Return the mean of each client's losses per token, float32 (K,), from those of all tokens (R, T)."""
    losses_K = losses_RT.view(len(batch.num_targets_K), -1).sum(dim=1)
    return losses_K / batch.num_targets_K.clamp(min=1)


def token_losses(backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
    """Return the loss of every token in nats, float32 (R, T), zero where none counts; otherwise as `client_losses`."""
    return backbone.lm(batch.input_ids_RT, batch.targets_RT, *_at_the_head(bank))


def log_probabilities(backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
    """Return every token's log-probability at each place that has a target, float32 (N, V), row after row.

    The bank must be in use; with a backbone in lock step every rank must call this or another pass.
    """
    return backbone.lm(batch.input_ids_RT, batch.targets_RT, *_at_the_head(bank), whole_vocabulary=True)


def _at_the_head(bank: Bank) -> tuple[Callable[[Tensor], Tensor | None], Tensor | None, Tensor | None]:
    """Return what a bank adds at the head: its features, the vocabulary basis, differences to the head itself."""
    frame, output_embedding = bank.head_frame, bank.layout.output_embedding
    return (
        partial(head_features, bank=bank),
        None if frame is None else frame.basis_QV,
        None if output_embedding is None else bank[output_embedding],
    )


def idle_batch(device: torch.device) -> ChunkBatch:
    """Return one row that counts for nothing: what a rank without work runs so that the others need not wait."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    return ChunkBatch(ids, torch.full_like(ids, IGNORED), torch.zeros(1, device=device))
