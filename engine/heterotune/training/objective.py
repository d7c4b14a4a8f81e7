"""What a client minimises, for all clients of a chunk at once.

Legend: K clients, B rows each, R = K·B rows, T tokens, P trained elements.
"""

from __future__ import annotations

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
    frame = bank.head_frame
    losses_RT = backbone.lm(
        batch.input_ids_RT,
        batch.targets_RT,
        partial(head_features, bank=bank),
        None if frame is None else frame.basis_QV,
        None if bank.layout.output_embedding is None else bank[bank.layout.output_embedding],
    )
    return mean_losses(losses_RT, bank, batch)


def mean_losses(losses_RT: Tensor, bank: Bank, batch: ChunkBatch) -> Tensor:
    """Return each client's mean over the tokens that count, (K,)."""
    losses_K = losses_RT.view(bank.num_clients, -1).sum(dim=1)
    return losses_K / batch.num_targets_K.clamp(min=1)


def idle_batch(device: torch.device) -> ChunkBatch:
    """Return one row that counts for nothing: what a rank without work runs so that the others need not wait."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    return ChunkBatch(ids, torch.full_like(ids, IGNORED), torch.zeros(1, device=device))
