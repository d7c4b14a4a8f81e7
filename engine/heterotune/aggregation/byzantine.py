"""What a hostile client sends instead of its update: the attacks that the rules in `robust.py` are measured against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from heterotune.config.fault_options import Byzantine


def hostile_update(update_P: Tensor, chosen: Byzantine, draw: np.random.Generator) -> Tensor:
    """Return what a hostile client sends, a new tensor of the update's shape and dtype.

    Args:
        update_P: What it trained. Not changed.
        chosen: The behaviour and its numbers.
        draw: `generator(run_seed, round, client_id, "byzantine")`; used by `gaussian_noise` alone.

    Returns:
        sign_flip: -u; scale: factor * u; gaussian_noise: u + sigma * N(0, 1); same_value: `value` everywhere; zero: 0.
    """
    if chosen.behaviour == "sign_flip":
        return -update_P
    if chosen.behaviour == "scale":
        return update_P * chosen.factor
    if chosen.behaviour == "gaussian_noise":
        noise_P = torch.from_numpy(draw.standard_normal(update_P.numel()))
        return (update_P.double() + chosen.sigma * noise_P).to(update_P.dtype)
    value = chosen.value if chosen.behaviour == "same_value" else 0.0
    return torch.full_like(update_P, value, dtype=torch.float64).to(update_P.dtype)  # too large a value is infinity
