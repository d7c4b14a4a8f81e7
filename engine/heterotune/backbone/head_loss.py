"""The frozen output head and its loss, a block of tokens at a time: logits are never all in memory.

Legend: N tokens that count, D width, V vocabulary, Q basis rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Logit block: 2^22 fp32 elements = 16 MiB. A function of the vocabulary alone, so that results never depend on memory.
BLOCK_ELEMENTS = 1 << 22


class HeadLoss(nn.Module):
    """Takes the place of `lm_head`; owns the same (possibly tied) weight, so ZeRO gathers it once per pass."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, hidden_ND: Tensor, targets_N: Tensor, features_NQ: Tensor | None, basis_QV: Tensor | None
    ) -> Tensor:
        """Return each token's negative log likelihood.

        Args:
            hidden_ND: Final hidden states.
            targets_N: The tokens that come next, int64.
            features_NQ: Features of the head branch, or None.
            basis_QV: The frozen vocabulary basis that turns features into logits, or None.

        Returns:
            float32, shape (N,), in nats. Its gradient with respect to hidden states and features was computed in the
            forward pass already: the weight is frozen, so the backward pass needs neither logits nor weight.
        """
        if torch.is_grad_enabled():
            return _FrozenHeadLoss.apply(hidden_ND, features_NQ, self.weight, basis_QV, targets_N)
        blocks = [
            _block(hidden_ND, features_NQ, self.weight, basis_QV, targets_N, rows)[0]
            for rows in _rows(hidden_ND.shape[0], self.weight.shape[0])
        ]
        return torch.cat(blocks) if blocks else hidden_ND.new_zeros(0, dtype=torch.float32)


def _rows(num_tokens: int, vocab_size: int) -> list[slice]:
    step = max(64, BLOCK_ELEMENTS // vocab_size)
    return [slice(start, start + step) for start in range(0, num_tokens, step)]


def _block(
    hidden_ND: Tensor,
    features_NQ: Tensor | None,
    weight: Tensor,
    basis_QV: Tensor | None,
    targets_N: Tensor,
    rows: slice,
) -> tuple[Tensor, Tensor]:
    """Return the losses and the log-probabilities of a block of tokens, in float32."""
    logits = hidden_ND[rows] @ weight.T
    if features_NQ is not None:
        logits = torch.addmm(logits, features_NQ[rows], basis_QV.to(logits.dtype))
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return F.nll_loss(log_probabilities, targets_N[rows], reduction="none"), log_probabilities


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross entropy through a frozen head; the gradient is made block by block in the forward pass."""

    @staticmethod
    def forward(ctx, hidden_ND, features_NQ, weight, basis_QV, targets_N):
        losses, grad_hidden = hidden_ND.new_empty(hidden_ND.shape[0], dtype=torch.float32), torch.empty_like(hidden_ND)
        grad_features = None if features_NQ is None else torch.empty_like(features_NQ)
        for rows in _rows(hidden_ND.shape[0], weight.shape[0]):
            losses[rows], gradient = _block(hidden_ND, features_NQ, weight, basis_QV, targets_N, rows)
            gradient.exp_()
            gradient[torch.arange(gradient.shape[0], device=gradient.device), targets_N[rows]] -= 1.0
            gradient = gradient.to(hidden_ND.dtype)
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
