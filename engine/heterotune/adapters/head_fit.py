"""Cores of the head branch by ridge regression on public rows: what a server can do to them without any client.

Ours; nothing of it is in the abstract of arXiv:2411.16796v2. Distillation between models on public data is that of
FedMD (Li and Wang, 2019) and FedDF (Lin et al., 2020); theirs trains whole models, ours solves for a head.

Legend: N public positions, D width of a type, r head rank, q outputs of the branch (rows of Q).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heterotune.adapters.alignment import RIDGE
from heterotune.adapters.bank import HeadFrame


def coordinates(states_ND: Tensor, frame: HeadFrame) -> Tensor:
    """Return [V (x - mean), 1] of final hidden states, float64, shape (N, r + 1)."""
    aligned = (states_ND.double() - frame.mean_D.double().cpu()) @ frame.down_RD.double().cpu().T
    return torch.cat([aligned, aligned.new_ones(len(aligned), 1)], dim=1)


def fit_core(coordinates_NR: Sequence[Tensor], wanted_Nq: Sequence[Tensor], *, ridge: float = RIDGE) -> Tensor:
    """Return the core that maps coordinates to what is wanted, as well as one can for all types that share it.

    Args:
        coordinates_NR: Of each type that shares the core, float64.
        wanted_Nq: For each of these types, float64.
        ridge: In units of a coordinate's mean square.

    Returns:
        argmin over S of Σ_m ‖c_m S - w_m‖² / N + ρ ‖S‖², ρ = `ridge` times the mean square of a coordinate; float64.
    """
    inputs, wanted = torch.cat(list(coordinates_NR)), torch.cat(list(wanted_Nq))
    gram = inputs.T @ inputs / len(inputs)
    rho = ridge * gram.diagonal().mean()
    return torch.linalg.solve(gram + rho * torch.eye(len(gram), dtype=gram.dtype), inputs.T @ wanted / len(inputs))


def common_answer(logits_Nq: Sequence[Tensor]) -> Tensor:
    """Return the logits of the mean of all types' probabilities of the outputs, centred, float64, shape (N, q)."""
    mean = torch.stack([torch.softmax(logits, dim=1) for logits in logits_Nq]).mean(dim=0)
    return centred(mean.clamp(min=1e-6).log())


def centred(logits_Nq: Tensor) -> Tensor:
    """Return logits less their mean at each position: the same probabilities."""
    return logits_Nq - logits_Nq.mean(dim=1, keepdim=True)
