"""The slow, obvious reference: one client at a time, plain PyTorch, all logits in memory.

Nothing of the fast path is used: adapters are added with `torch.nn.functional.linear`, optimisers are torch's own, the
loss is `torch.nn.functional.cross_entropy`. Tests hold the fast path against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout
from heterotune.backbone.frozen_lm import FrozenLM
from heterotune.config.method_options import LocalConfig
from heterotune.data.tokenizing import IGNORED
from heterotune.training.optimizers import learning_rate_at


def reference_logits(
    lm: FrozenLM,
    layout: AdapterLayout,
    values: Mapping[str, Tensor],
    frame: HeadFrame | None,
    input_ids_BT: Tensor,
    base: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the logits of one client's rows, float32 (B, T, V). The backbone must not be sharded.

    `base` has what a server has added to frozen linears, by their paths.
    """

    def hook_of(branch):
        def hook(module, inputs, output):
            low = F.linear(inputs[0], values[branch.down])
            low = F.silu(low) if branch.activation == "silu" else low
            gate = values[branch.gate] if branch.gate else 1.0
            if base and branch.module in base:
                output = output + F.linear(inputs[0], base[branch.module])
            return output + branch.scale * F.linear(low * gate, values[branch.up])

        return hook

    handles = [lm.llama.get_submodule(b.module).register_forward_hook(hook_of(b)) for b in layout.branches]
    try:
        hidden = lm.llama(input_ids=input_ids_BT, use_cache=False).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    logits = F.linear(hidden, lm.head.weight)
    if layout.head is not None and frame is not None:
        aligned = F.linear(hidden - frame.mean_D, frame.down_RD)
        with_one = torch.cat([aligned, torch.ones_like(aligned[..., :1])], dim=-1)
        logits = logits + with_one @ values[layout.head.core] @ frame.basis_QV
    return logits


def train_client(
    lm: FrozenLM,
    layout: AdapterLayout,
    start: Mapping[str, Tensor],
    frame: HeadFrame | None,
    batches: Sequence[tuple[Tensor, Tensor]],
    local: LocalConfig,
    *,
    penalty: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor] | None = None,
    base: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train one client for a round and return its update by tensor name.

    Args:
        lm: An unsharded frozen model.
        layout: The adapter; no tensor with `one_second_moment` under adamw (torch's AdamW has none).
        start: Tensor name -> value at the start.
        frame: The head branch's frozen tensors.
        batches: (input ids, targets), one pair a step.
        local: Optimiser, clipping and schedule.
        penalty: A strategy's loss term on (values, start).
        base: What a server has added to frozen linears, by their paths.
    """
    values = {name: value.clone().requires_grad_() for name, value in start.items()}
    groups = [{"params": [values[spec.name]], "scale": spec.learning_rate_scale} for spec in layout.tensors]
    optimizer = _optimizer(groups, local)
    for step, (input_ids, targets) in enumerate(batches):
        _begin_step(optimizer, step, len(batches), local)
        logits = reference_logits(lm, layout, values, frame, input_ids, base)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        if penalty is not None:
            loss = loss + penalty(values, start)
        loss.backward()
        if local.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(values.values()), local.clip_norm)
        optimizer.step()
    return {name: (values[name] - start[name]).detach() for name in start}


def train_full_model(lm: LlamaForCausalLM, batches: Sequence[tuple[Tensor, Tensor]], local: LocalConfig) -> None:
    """Fine-tune all parameters of a model on one client's batches, in place.

    Args:
        lm: Its own copy, not sharded.
        batches: (input ids, targets), one pair a step.
        local: Optimiser, clipping and schedule.
    """
    parameters = list(lm.parameters())
    optimizer = _optimizer([{"params": parameters, "scale": 1.0}], local)
    for step, (input_ids, targets) in enumerate(batches):
        _begin_step(optimizer, step, len(batches), local)
        logits = lm(input_ids=input_ids, use_cache=False).logits
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED).backward()
        if local.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, local.clip_norm)
        optimizer.step()


def _begin_step(optimizer: torch.optim.Optimizer, step: int, num_steps: int, local: LocalConfig) -> None:
    """Set the step's learning rates and forget the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, num_steps, local) * group["scale"]
    optimizer.zero_grad()


def _optimizer(groups: list[dict[str, Any]], local: LocalConfig) -> torch.optim.Optimizer:
    if local.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=local.learning_rate, betas=local.betas, eps=local.eps, weight_decay=local.weight_decay
        )
    momentum = local.momentum if local.optimizer == "momentum" else 0.0
    return torch.optim.SGD(groups, lr=local.learning_rate, momentum=momentum, weight_decay=local.weight_decay)
