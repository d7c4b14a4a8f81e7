"""Norms of clients' updates and distances between them, with the same bits on any number of ranks.

Products are added in the fixed blocks of `exact.blocked_dot`, and rows are read in tiles: none is copied as a whole.

Shape letters: K clients, P parameters, T parameters of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heterotune.aggregation.exact import BLOCK, block_dots
from heterotune.errors import AggregationError

_TILE_ELEMENTS = 16 * BLOCK


def squared_distances(update_KP: Tensor, client_ids: Sequence[int]) -> Tensor:
    """Return ‖u_i - u_j‖² of every pair, float64, shape (K, K), from fixed blocks added in block order."""
    check_finite(update_KP, client_ids)
    distance_KK = torch.zeros(len(client_ids), len(client_ids), dtype=torch.float64)
    for i in range(len(client_ids)):
        for j in range(i):
            distance_KK[i, j] = distance_KK[j, i] = squared_norm(update_KP[i], update_KP[j])
    return distance_KK


def update_norms(update_KP: Tensor, client_ids: Sequence[int]) -> Tensor:
    """Return each client's Euclidean norm, float64, shape (K,), from fixed blocks added in block order."""
    check_finite(update_KP, client_ids)
    return torch.tensor([squared_norm(row_P) for row_P in update_KP], dtype=torch.float64).sqrt()


def clip_factors(norm_K: Tensor, max_norm: float) -> Tensor:
    """Return min(1, max_norm / norm) of each client, float64; a norm of 0 keeps its factor of 1."""
    return torch.where(norm_K > max_norm, max_norm / norm_K, torch.ones_like(norm_K))


def squared_norm(a_P: Tensor, b_P: Tensor | None = None) -> float:
    """Return ‖a‖² or ‖a - b‖² in the blocks of `exact.blocked_dot`, without a float64 copy of a whole row."""
    total = 0.0
    for start in range(0, a_P.numel(), _TILE_ELEMENTS):
        tile_T = a_P[start : start + _TILE_ELEMENTS].double()
        if b_P is not None:
            tile_T = tile_T - b_P[start : start + _TILE_ELEMENTS].double()
        for value in block_dots(tile_T, tile_T).tolist():
            total += value
    return total


def check_finite(update_KP: Tensor, client_ids: Sequence[int]) -> None:
    """Refuse a row that is not finite; names the client."""
    assert len(update_KP) == len(client_ids), "one row per client"
    for client_id, row_P in zip(client_ids, update_KP, strict=True):
        low, high = torch.aminmax(row_P) if row_P.numel() else (torch.zeros(()), torch.zeros(()))
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise AggregationError(f"client {client_id}: its update is not finite")
