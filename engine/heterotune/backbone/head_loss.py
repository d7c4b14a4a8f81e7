"""The output head and its loss, a block of tokens at a time: logits are never all in memory.

Legend: N tokens that count, D width, V vocabulary, Q basis rank, K clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterotune.backbone.exit_loss import ExitLoss
from heterotune.backbone.logit_blocks import tokens_per_block


@dataclass(frozen=True)
class OwnHeads:
    """Heads that differ between clients.

    Attributes:
        difference_KVD: What each client adds to the frozen weight.
        num_tokens: Each client's tokens that count; a client's tokens are together, in client order.
    """

    difference_KVD: Tensor
    num_tokens: Sequence[int]


class HeadLoss(nn.Module):
    """Takes the place of `lm_head`; owns the same (possibly tied) weight, so ZeRO gathers it once per pass."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self,
        hidden_ND: Tensor,
        targets_N: Tensor | None,
        features_NQ: Tensor | None = None,
        basis_QV: Tensor | None = None,
        own: OwnHeads | None = None,
        *,
        distillation: float = 0.0,
    ) -> Tensor:
        """Return each token's negative log likelihood, or the log-probabilities of the whole vocabulary.

        Args:
            hidden_ND: Final hidden states; (E, N, D) if the model answers E times, see exit_loss.py.
            targets_N: The tokens that come next, int64; None to get log-probabilities (N, V), without gradient.
            features_NQ: Features of the head branch, or None.
            basis_QV: The frozen vocabulary basis that turns features into logits, or None.
            own: Every client's own head, instead of the frozen one and its branch; or None.
            distillation: Weight with which several answers learn from one another.

        Returns:
            float32, shape (N,), in nats. Behind a frozen head the gradient with respect to hidden states and features
            was computed in the forward pass already, so the backward pass needs neither logits nor weight. Clients' own
            heads make their logits again in the backward pass: a gradient as large as the head then lives only there.
        """
        if hidden_ND.ndim == 3:
            assert features_NQ is None and own is None
            return ExitLoss.apply(hidden_ND, self.weight, targets_N, distillation)
        if targets_N is None:
            return self._log_probabilities(hidden_ND, features_NQ, basis_QV, own)
        if own is not None:
            assert features_NQ is None and sum(own.num_tokens) == hidden_ND.shape[0]
            return _OwnHeadLoss.apply(hidden_ND, own.difference_KVD, self.weight, targets_N, tuple(own.num_tokens))
        if torch.is_grad_enabled():
            return _FrozenHeadLoss.apply(hidden_ND, features_NQ, self.weight, basis_QV, targets_N)
        blocks = [
            _block(hidden_ND, features_NQ, self.weight, basis_QV, targets_N, rows)[0]
            for rows in _rows(hidden_ND.shape[0], self.weight.shape[0])
        ]
        return torch.cat(blocks) if blocks else hidden_ND.new_zeros(0, dtype=torch.float32)

    @torch.no_grad()
    def _log_probabilities(
        self, hidden_ND: Tensor, features_NQ: Tensor | None, basis_QV: Tensor | None, own: OwnHeads | None
    ) -> Tensor:
        """Return the log-probabilities of the token after each of a few: all of them are in memory at once."""
        if own is None:
            return _log_probabilities(hidden_ND, features_NQ, self.weight, basis_QV)
        parts = [
            _log_probabilities(hidden_ND[rows], None, own_VD, None)
            for _, own_VD, blocks in _own_heads(self.weight, own.difference_KVD, own.num_tokens, hidden_ND.dtype)
            for rows in blocks
        ]
        return torch.cat(parts) if parts else hidden_ND.new_zeros(0, self.weight.shape[0], dtype=torch.float32)


def _rows(num_tokens: int, vocab_size: int, first: int = 0) -> list[slice]:
    """Return the blocks of the tokens from `first` on."""
    step, stop = tokens_per_block(vocab_size), first + num_tokens
    return [slice(start, min(start + step, stop)) for start in range(first, stop, step)]


def _block(
    hidden_ND: Tensor,
    features_NQ: Tensor | None,
    weight: Tensor,
    basis_QV: Tensor | None,
    targets_N: Tensor,
    rows: slice,
) -> tuple[Tensor, Tensor]:
    """Return the losses and the log-probabilities of a block of tokens, in float32."""
    features = None if features_NQ is None else features_NQ[rows]
    log_probabilities = _log_probabilities(hidden_ND[rows], features, weight, basis_QV)
    return F.nll_loss(log_probabilities, targets_N[rows], reduction="none"), log_probabilities


def _log_probabilities(
    hidden_ND: Tensor, features_NQ: Tensor | None, weight: Tensor, basis_QV: Tensor | None
) -> Tensor:
    """Return what a head makes of hidden states, float32 (N, V)."""
    logits = hidden_ND @ weight.T
    if features_NQ is not None:
        logits = torch.addmm(logits, features_NQ, basis_QV.to(logits.dtype))
    return torch.log_softmax(logits.float(), dim=-1)


def _logit_gradient(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Turn a block's log-probabilities into the gradient of its losses with respect to its logits, in place."""
    gradient = log_probabilities.exp_()
    gradient[torch.arange(gradient.shape[0], device=gradient.device), targets] -= 1.0
    return gradient


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross entropy through a frozen head; the gradient is made block by block in the forward pass."""

    @staticmethod
    def forward(ctx, hidden_ND, features_NQ, weight, basis_QV, targets_N):
        losses, grad_hidden = hidden_ND.new_empty(hidden_ND.shape[0], dtype=torch.float32), torch.empty_like(hidden_ND)
        grad_features = None if features_NQ is None else torch.empty_like(features_NQ)
        for rows in _rows(hidden_ND.shape[0], weight.shape[0]):
            losses[rows], log_probabilities = _block(hidden_ND, features_NQ, weight, basis_QV, targets_N, rows)
            gradient = _logit_gradient(log_probabilities, targets_N[rows]).to(hidden_ND.dtype)
            torch.mm(gradient, weight, out=grad_hidden[rows])
            if grad_features is not None:
                torch.mm(gradient, basis_QV.to(gradient.dtype).T, out=grad_features[rows])
        ctx.save_for_backward(grad_hidden, grad_features)
        return losses

    @staticmethod
    def backward(ctx, grad_losses_N):
        grad_hidden, grad_features = ctx.saved_tensors
        scale = grad_losses_N.unsqueeze(1)
        return (
            (grad_hidden * scale).to(grad_hidden.dtype),
            None if grad_features is None else (grad_features * scale).to(grad_features.dtype),
            None,
            None,
            None,
        )


class _OwnHeadLoss(torch.autograd.Function):
    """Cross entropy of each client's tokens through its own head: the frozen weight and the client's difference."""

    @staticmethod
    def forward(ctx, hidden_ND, difference_KVD, weight, targets_N, num_tokens):
        losses = hidden_ND.new_empty(hidden_ND.shape[0], dtype=torch.float32)
        for _, own_VD, blocks in _own_heads(weight, difference_KVD, num_tokens, hidden_ND.dtype):
            for rows in blocks:
                losses[rows] = _block(hidden_ND, None, own_VD, None, targets_N, rows)[0]
        ctx.save_for_backward(hidden_ND, difference_KVD, weight, targets_N)
        ctx.num_tokens = num_tokens
        return losses

    @staticmethod
    def backward(ctx, grad_losses_N):
        hidden_ND, difference_KVD, weight, targets_N = ctx.saved_tensors
        grad_hidden, grad_KVD = torch.empty_like(hidden_ND), torch.zeros_like(difference_KVD)
        for client, own_VD, blocks in _own_heads(weight, difference_KVD, ctx.num_tokens, hidden_ND.dtype):
            for rows in blocks:
                _, log_probabilities = _block(hidden_ND, None, own_VD, None, targets_N, rows)
                gradient = _logit_gradient(log_probabilities, targets_N[rows]).mul_(grad_losses_N[rows].unsqueeze(1))
                torch.mm(gradient.to(own_VD.dtype), own_VD, out=grad_hidden[rows])
                # In the difference's own dtype: many blocks add up, and bf16 would lose what they have in common.
                grad_KVD[client].addmm_(gradient.T, hidden_ND[rows].to(gradient.dtype))
        return grad_hidden, grad_KVD, None, None, None


def _own_heads(
    weight: Tensor, difference_KVD: Tensor, num_tokens: Sequence[int], dtype: torch.dtype
) -> Iterator[tuple[int, Tensor, list[slice]]]:
    """Yield every client that has tokens, with its head and its blocks; one head at a time is in memory."""
    first = 0
    for client, count in enumerate(num_tokens):
        if count:
            own_VD = (weight + difference_KVD[client]).to(dtype)
            yield client, own_VD, _rows(count, weight.shape[0], first)
        first += count
