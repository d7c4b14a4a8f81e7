"""One optimiser per client, all clients of a chunk in a few operations on a (K, P) matrix.

Same formulas as `torch.optim.SGD` and `torch.optim.AdamW`; `reference.py` trains with those, client by client.
Legend: K clients, P trained elements per client.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.config.method_options import LocalConfig

CLIP_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def learning_rate_at(step: int, num_steps: int, local: LocalConfig) -> float:
    """Return the learning rate of a client's step.

    Args:
        step: From 0.
        num_steps: Steps that this client makes in the round.
        local: Schedule, warm-up and base rate.

    Returns:
        The base rate, times a linear warm-up, times the schedule: linear and cosine fall from 1 towards 0.
    """
    if step < local.warmup_steps:
        return local.learning_rate * (step + 1) / local.warmup_steps
    progress = (step - local.warmup_steps) / max(1, num_steps - local.warmup_steps)
    if local.schedule == "linear":
        return local.learning_rate * (1.0 - progress)
    if local.schedule == "cosine":
        return local.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return local.learning_rate


def clip_per_client(grads_KP: Tensor, clip_norm: float) -> Tensor:
    """Scale each client's gradient down to `clip_norm`, in place. Returns the norms before, shape (K,)."""
    norms_K = torch.linalg.vector_norm(grads_KP, dim=1)
    grads_KP.mul_((clip_norm / (norms_K + CLIP_EPSILON)).clamp(max=1.0).unsqueeze(1))
    return norms_K


class ChunkOptimizer:
    """SGD, SGD with momentum or AdamW for K clients that start a round with fresh state.

    Clients with fewer steps stop changing when they are done; the others go on.
    """

    def __init__(self, layout: AdapterLayout, values_KP: Tensor, local: LocalConfig, num_steps: Sequence[int]) -> None:
        """Take `values_KP`, float32 (K, P), to update in place."""
        self.values_KP, self.local, self.num_steps = values_KP, local, tuple(num_steps)
        self.step_number = 0
        self.rate_scale_P = _rate_scale(layout, values_KP)
        self.pooled = [layout.columns[spec.name] for spec in layout.tensors if spec.one_second_moment]
        self.first_KP = torch.zeros_like(values_KP) if local.optimizer != "sgd" else None
        self.second_KP = torch.zeros_like(values_KP) if local.optimizer == "adamw" else None

    def active(self) -> Tensor:
        """Return which clients still train in the step to come, float32 (K,): 1 or 0."""
        return self.values_KP.new_tensor([float(self.step_number < steps) for steps in self.num_steps])

    def step(self, grads_KP: Tensor) -> Tensor:
        """Make one step. Gradients are clipped in place first; rows of finished clients are not read.

        Returns:
            The learning rate of each client's step, float32 (K, 1); 0 for one that has made all its steps.
        """
        if self.local.clip_norm is not None:
            clip_per_client(grads_KP, self.local.clip_norm)
        rates = [learning_rate_at(self.step_number, steps, self.local) for steps in self.num_steps]
        rate_K1 = self.values_KP.new_tensor(rates).unsqueeze(1)
        rate = rate_K1 if self.rate_scale_P is None else rate_K1 * self.rate_scale_P
        rule = self._adamw if self.local.optimizer == "adamw" else self._sgd
        if all(self.step_number < steps for steps in self.num_steps):
            rule(grads_KP, rate)
        else:
            done = [k for k, steps in enumerate(self.num_steps) if self.step_number >= steps]
            kept = self.values_KP[done]
            rule(grads_KP, rate)
            self.values_KP[done] = kept
            rate_K1[done] = 0.0
        self.step_number += 1
        return rate_K1

    def _sgd(self, grads_KP: Tensor, rate: Tensor) -> None:
        direction = grads_KP
        if self.local.weight_decay:
            direction = direction.add(self.values_KP, alpha=self.local.weight_decay)
        if self.first_KP is not None:
            self.first_KP.mul_(self.local.momentum).add_(direction)
            direction = self.first_KP
        self.values_KP.addcmul_(direction, rate, value=-1.0)

    def _adamw(self, grads_KP: Tensor, rate: Tensor) -> None:
        beta1, beta2 = self.local.betas
        if self.local.weight_decay:
            self.values_KP.mul_(1.0 - rate * self.local.weight_decay)
        squares_KP = grads_KP.square()
        for columns in self.pooled:
            squares_KP[:, columns] = squares_KP[:, columns].mean(dim=1, keepdim=True)
        self.first_KP.lerp_(grads_KP, 1.0 - beta1)
        self.second_KP.mul_(beta2).add_(squares_KP, alpha=1.0 - beta2)
        step = self.step_number + 1
        denominator = self.second_KP.sqrt().div_(math.sqrt(1.0 - beta2**step)).add_(self.local.eps)
        self.values_KP.addcmul_(self.first_KP / denominator, rate, value=-1.0 / (1.0 - beta1**step))


def _rate_scale(layout: AdapterLayout, values_KP: Tensor) -> Tensor | None:
    """Return each column's factor on the learning rate, one for all where they are equal, None where all are 1.

    A column that does not train has 0, and stays what it is under weight decay, too.
    """
    scale_of = {spec.name: spec.learning_rate_scale if spec.trains else 0.0 for spec in layout.tensors}
    scales = set(scale_of.values())
    if len(scales) < 2:
        return None if scales <= {1.0} else values_KP.new_tensor([*scales])
    scale_P = values_KP.new_ones(layout.num_columns)
    for name, scale in scale_of.items():
        scale_P[layout.columns[name]] = scale
    return scale_P
