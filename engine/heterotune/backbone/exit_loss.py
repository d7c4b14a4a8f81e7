"""The loss of a model that answers at several depths through one frozen head, and learns from its own answers.

Per token L = Σ_i CE(y_i) + w / (E - 1) Σ_i Σ_{l≠i} KL(y_l ‖ y_i): E answers y_i, w the weight of the distillation, and
no gradient through the teacher y_l.

Source: self-distillation as in DepthFL (Kim et al., 2023). Differs: the answers are those of one frozen head.
Legend: E answers (exits and the end), N tokens that count, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from heterotune.backbone.logit_blocks import tokens_per_block


class ExitLoss(torch.autograd.Function):
    """(Hidden states (E, N, D), frozen head (V, D), targets (N,), w) -> loss of each token, float32 (N,).

    The gradient with respect to hidden states is made in the forward pass. So neither logits nor the weight are needed
    in the backward pass, and logits are never all in memory.
    """

    @staticmethod
    def forward(ctx, hidden_END, weight, targets_N, distillation):
        losses = hidden_END.new_zeros(hidden_END.shape[1], dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden_END)
        step = max(1, tokens_per_block(weight.shape[0]) // len(hidden_END))
        for start in range(0, len(losses), step):
            rows = slice(start, start + step)
            logits_ENV = hidden_END[:, rows] @ weight.T
            losses[rows], gradient_ENV = _losses(logits_ENV.float(), targets_N[rows], distillation)
            grad_hidden[:, rows] = gradient_ENV.to(weight.dtype) @ weight
        ctx.save_for_backward(grad_hidden)
        return losses

    @staticmethod
    def backward(ctx, grad_losses_N):
        (grad_hidden,) = ctx.saved_tensors
        return (grad_hidden * grad_losses_N.view(1, -1, 1)).to(grad_hidden.dtype), None, None, None


def _losses(logits_ENV: Tensor, targets_N: Tensor, distillation: float) -> tuple[Tensor, Tensor]:
    """Return the losses of a block of tokens and their gradient with respect to the logits."""
    logs = torch.log_softmax(logits_ENV, dim=-1)
    answers = logs.exp()
    expanded_EN = targets_N.expand(len(logs), -1)
    losses = F.nll_loss(logs.flatten(0, 1), expanded_EN.flatten(), reduction="none").view(expanded_EN.shape).sum(dim=0)
    gradient = answers.clone()
    gradient.scatter_add_(2, expanded_EN.unsqueeze(2), -torch.ones_like(expanded_EN, dtype=logs.dtype).unsqueeze(2))
    if len(logs) > 1 and distillation:
        share = distillation / (len(logs) - 1)
        # Σ_{l≠i} KL(y_l ‖ y_i) = Σ_l <y_l, log y_l - log y_i>, and its gradient in logits_i is Σ_l (y_i - y_l).
        for teacher, teacher_logs in zip(answers, logs, strict=True):
            losses += share * (teacher * (teacher_logs - logs)).sum(dim=(0, 2))
        gradient += share * (len(logs) * answers - answers.sum(dim=0))
    return losses, gradient
