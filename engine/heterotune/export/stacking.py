"""All branches of a site side by side are one LoRA: B = [g_b s_b U_b]_b, A = [V_b]_b, of rank Σ r_b.

The head branch is one on `lm_head` with a bias: logits += [V (x - μ), 1] S Q = (S_V Q)ᵀ V x + (s_1 - μᵀ Vᵀ S_V) Q,
where S_V are the rows of S but the last and s_1 is the last. Everything is computed in float64 and rounded once.

Legend: r adapter rank, I input width, O output width, D width of the model, Q basis rank, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout, Branch

LM_HEAD = "lm_head"


@dataclass(frozen=True)
class StackedSite:
    """One LoRA at one linear: y += alpha / r · B A x + bias.

    Attributes:
        down_rI: A.
        up_Or: B.
        alpha: As in PEFT.
        bias_O: None = no bias.
        activation: What is between A and B; "none" makes it a LoRA.
    """

    down_rI: Tensor
    up_Or: Tensor
    alpha: float
    bias_O: Tensor | None = None
    activation: str = "none"

    @property
    def adapter_rank(self) -> int:
        """r, all branches together."""
        return self.down_rI.shape[0]

    def difference_OI(self) -> Tensor:
        """Return what is added to the frozen weight, float64."""
        assert self.activation == "none"
        return self.alpha / self.adapter_rank * self.up_Or.double() @ self.down_rI.double()


def stack_branches(
    layout: AdapterLayout, values: Mapping[str, Tensor], frame: HeadFrame | None
) -> dict[str, StackedSite]:
    """Return path in `LlamaForCausalLM` -> the LoRA that all of an adapter's branches there make together.

    Args:
        layout: What the adapter consists of; its dense differences are no LoRA and are not looked at.
        values: Name -> value, without a client axis.
        frame: The frozen part of the head branch; None leaves the head branch out.
    """
    branches_at: dict[str, list[Branch]] = defaultdict(list)
    for branch in layout.branches:
        branches_at[f"model.{branch.module}"].append(branch)
    sites = {path: _stacked(branches, values) for path, branches in branches_at.items()}
    if layout.head is not None and frame is not None:
        sites[LM_HEAD] = _head_site(values[layout.head.core], frame)
    return sites


def _stacked(branches: list[Branch], values: Mapping[str, Tensor]) -> StackedSite:
    """A single branch keeps its own values and alpha; of several, scales and gates go into B."""
    first = branches[0]
    if len(branches) == 1 and first.gate is None:
        down_rI = values[first.down]
        return StackedSite(down_rI, values[first.up], first.scale * down_rI.shape[0], activation=first.activation)
    ups = []
    for branch in branches:
        gate = 1.0 if branch.gate is None else values[branch.gate].double()
        ups.append((values[branch.up].double() * (branch.scale * gate)).float())
    down_rI = torch.cat([values[branch.down] for branch in branches])
    return StackedSite(down_rI, torch.cat(ups, dim=1), float(down_rI.shape[0]), activation=first.activation)


def _head_site(core_SQ: Tensor, frame: HeadFrame) -> StackedSite:
    core, basis_QV = core_SQ.double(), frame.basis_QV.double()
    of_mean_Q = (frame.down_RD.double() @ frame.mean_D.double()) @ core[:-1]
    return StackedSite(
        down_rI=frame.down_RD,
        up_Or=(core[:-1] @ basis_QV).T.float(),
        alpha=float(frame.down_RD.shape[0]),
        bias_O=((core[-1] - of_mean_Q) @ basis_QV).float(),
    )
