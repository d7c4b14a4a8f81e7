"""Alignment of the head branch, once and on public text: what makes cores of different model types mean the same.

All types read the same public tokens. Each type's final hidden states are mapped by its own frozen V_m to r
coordinates that agree across types as far as linear maps can (generalised canonical correlation), and a common basis
of the shared vocabulary turns the core's output into logits. Our reconstruction: the abstract of arXiv:2411.16796v2
says nothing of it.

Legend: N public positions, D width of a type, r head rank, q basis rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

RIDGE = 1e-2  # of the mean eigenvalue; keeps directions that hardly vary from being blown up

Method = Literal["none", "pca", "procrustes", "gcca", "gcca_shrunk"]


@dataclass(frozen=True)
class Alignment:
    """The frozen maps of every model type, in model-type order.

    Attributes:
        down: V_m, float32, shape (r, D_m); V_m (x - mean) has about unit variance in each coordinate, but under
            "gcca_shrunk": there the more of it the better the type knows the common coordinate.
        mean: μ_m, float32, shape (D_m,).
        correlation: Mean correlation of coordinates over pairs of types on the public text; NaN for one type.
    """

    down: tuple[Tensor, ...]
    mean: tuple[Tensor, ...]
    correlation: float


def align_types(states: Sequence[Tensor], head_rank: int, method: Method, *, run_seed: int) -> Alignment:
    """Find every type's map to the common coordinates.

    Args:
        states: For each type its final hidden states at the same public positions, (N, D_m).
        head_rank: r, at most the smallest width.
        method: `gcca`, `gcca_shrunk` (the same, each coordinate as large as the regression on
            a type's states leaves it), `procrustes` (each type's principal components rotated to the first
            type's), `pca` (not rotated), `none` (random maps; aligns nothing, for ablations).
        run_seed: Seeds the random maps.

    Returns:
        Maps and means; computed in float64.
    """
    assert head_rank <= min(state.shape[1] for state in states)
    centred, means = [], []
    for state in states:
        mean_D = state.double().mean(dim=0)
        centred.append(state.double() - mean_D)
        means.append(mean_D.float())
    makers = {"none": _random_maps, "pca": _pca_maps, "procrustes": _procrustes_maps}
    maps = makers.get(method, _gcca_maps)(centred, head_rank, run_seed)
    scaled = [_unit_variance(map_rD, x_ND) for map_rD, x_ND in zip(maps, centred, strict=True)]
    down = maps if method == "gcca_shrunk" else scaled
    return Alignment(tuple(m.float() for m in down), tuple(means), _mean_correlation(scaled, centred))


def vocabulary_basis(embeddings: Sequence[Tensor], basis_rank: int) -> Tensor:
    """Return Q: the directions of the vocabulary that the types' output embeddings use most, together.

    Args:
        embeddings: For each type its output embedding (V, D_m).
        basis_rank: q, at most V and at most the sum of the widths.

    Returns:
        float32, shape (q, V), orthogonal rows, each with entries of unit mean square.
    """
    scaled = [e.double() / torch.linalg.matrix_norm(e.double()) for e in embeddings]
    together_VD = torch.cat(scaled, dim=1)
    eigenvalues, vectors = torch.linalg.eigh(together_VD.T @ together_VD)
    top = vectors[:, -basis_rank:].flip(1)
    basis_Vq = together_VD @ top / eigenvalues[-basis_rank:].flip(0).clamp(min=1e-30).sqrt()
    return (basis_Vq.T * basis_Vq.shape[0] ** 0.5).float().contiguous()


def label_basis(tokens: Sequence[int], vocab_size: int) -> Tensor:
    """Return Q: one row for each token of the class names, 1 there and 0 elsewhere, float32, shape (q, V)."""
    basis_qV = torch.zeros(len(tokens), vocab_size)
    basis_qV[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.int64)] = 1.0
    return basis_qV


def _gcca_maps(centred: Sequence[Tensor], head_rank: int, run_seed: int) -> list[Tensor]:
    """MAX-VAR generalised canonical correlation: G = top singular vectors of the whitened states side by side."""
    whitened_ND = torch.cat([x @ _whitener(x) for x in centred], dim=1)
    num_rows = whitened_ND.shape[0]
    eigenvalues, vectors = torch.linalg.eigh(whitened_ND.T @ whitened_ND / num_rows)
    common_Nr = whitened_ND @ vectors[:, -head_rank:].flip(1)
    common_Nr = common_Nr / eigenvalues[-head_rank:].flip(0).clamp(min=1e-30).sqrt()
    maps = []
    for x_ND in centred:
        covariance = _ridged_covariance(x_ND)
        maps.append(torch.linalg.solve(covariance, x_ND.T @ common_Nr / num_rows).T)
    return maps


def _pca_maps(centred: Sequence[Tensor], head_rank: int, run_seed: int) -> list[Tensor]:
    """Each type's leading principal directions, whitened."""
    maps = []
    for x_ND in centred:
        eigenvalues, vectors = torch.linalg.eigh(_ridged_covariance(x_ND))
        top = vectors[:, -head_rank:].flip(1) / eigenvalues[-head_rank:].flip(0).sqrt()
        maps.append(top.T)
    return maps


def _procrustes_maps(centred: Sequence[Tensor], head_rank: int, run_seed: int) -> list[Tensor]:
    """Principal coordinates of every type, rotated to agree best with the first type's."""
    maps = _pca_maps(centred, head_rank, run_seed)
    first_Nr = centred[0] @ maps[0].T
    rotated = [maps[0]]
    for map_rD, x_ND in zip(maps[1:], centred[1:], strict=True):
        left, _, right = torch.linalg.svd((x_ND @ map_rD.T).T @ first_Nr)
        rotated.append((left @ right).T @ map_rD)
    return rotated


def _random_maps(centred: Sequence[Tensor], head_rank: int, run_seed: int) -> list[Tensor]:
    """One Gaussian map per width, from the run's seed."""
    maps = []
    for x_ND in centred:
        draw = generator(run_seed, NO_ROUND, NO_CLIENT, f"alignment/{x_ND.shape[1]}")
        maps.append(torch.from_numpy(draw.standard_normal((head_rank, x_ND.shape[1]))))
    return maps


def _ridged_covariance(x_ND: Tensor) -> Tensor:
    covariance = x_ND.T @ x_ND / x_ND.shape[0]
    ridge = RIDGE * covariance.diagonal().mean()
    return covariance + ridge * torch.eye(x_ND.shape[1], dtype=x_ND.dtype)


def _whitener(x_ND: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(_ridged_covariance(x_ND))
    return vectors / eigenvalues.sqrt() @ vectors.T


def _unit_variance(map_rD: Tensor, x_ND: Tensor) -> Tensor:
    deviation_r = (x_ND @ map_rD.T).square().mean(dim=0).sqrt().clamp(min=1e-12)
    return map_rD / deviation_r.unsqueeze(1)


def _mean_correlation(maps: Sequence[Tensor], centred: Sequence[Tensor]) -> float:
    """Return the mean over pairs of types and coordinates of the correlation between mapped states."""
    coordinates = [x_ND @ map_rD.T for map_rD, x_ND in zip(maps, centred, strict=True)]
    pairs = [(i, j) for i in range(len(maps)) for j in range(i)]
    if not pairs:
        return float("nan")
    return sum(float((coordinates[i] * coordinates[j]).mean()) for i, j in pairs) / len(pairs)
