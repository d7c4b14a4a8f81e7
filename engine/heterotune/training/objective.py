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
        offset_KV: What each client adds to the logits where an answer begins, float32; None = nothing.
    """

    input_ids_RT: Tensor
    targets_RT: Tensor
    num_targets_K: Tensor
    labels_R: Tensor | None = None
    offset_KV: Tensor | None = None

    @classmethod
    def of_rows(
        cls,
        input_ids_RT: np.ndarray,
        targets_RT: np.ndarray,
        num_clients: int,
        device: torch.device,
        labels_R: np.ndarray | None = None,
        offset_KV: np.ndarray | None = None,
    ) -> ChunkBatch:
        """Bring rows of `num_clients` clients, in equal parts, to a device and count their targets."""
        num_targets_K = (targets_RT != IGNORED).reshape(num_clients, -1).sum(axis=1)
        arrays = [input_ids_RT, targets_RT, num_targets_K, labels_R, offset_KV]
        return cls(*(None if array is None else torch.from_numpy(array).to(device) for array in arrays))


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


def token_losses(
    backbone: Backbone, bank: Bank, batch: ChunkBatch, look: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Return the loss of every token in nats, float32 (R, T), zero where none counts; otherwise as `client_losses`.

    `look` is called with the final hidden states (R, T, D).
    """
    features, basis_QV, difference_KVD = _at_the_head(bank)

    def at_the_head(final_RTD: Tensor) -> Tensor | None:
        if look is not None:
            look(final_RTD)
        features_RTQ = features(final_RTD)
        if batch.offset_KV is None:
            return features_RTQ
        whose_RTK = _answer_starts_by_client(batch).to(final_RTD.dtype)
        return whose_RTK if features_RTQ is None else torch.cat([features_RTQ, whose_RTK], dim=-1)

    if batch.offset_KV is not None:
        # A client's offsets are one more direction of the vocabulary, which no parameter reaches.
        offset_KV = batch.offset_KV
        basis_QV = offset_KV if basis_QV is None else torch.cat([basis_QV, offset_KV.to(basis_QV.dtype)])
    return backbone.lm(batch.input_ids_RT, batch.targets_RT, at_the_head, basis_QV, difference_KVD)


def _answer_starts_by_client(batch: ChunkBatch) -> Tensor:
    """Return 1 where a row of a client has its first target, bool (R, T, K)."""
    counts_RT = batch.targets_RT != IGNORED
    first_RT = counts_RT & (counts_RT.cumsum(dim=1) == 1)
    num_clients = len(batch.num_targets_K)
    client_R = torch.arange(num_clients, device=first_RT.device).repeat_interleave(len(first_RT) // num_clients)
    return first_RT.unsqueeze(2) & torch.nn.functional.one_hot(client_R, num_clients).bool().unsqueeze(1)


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
