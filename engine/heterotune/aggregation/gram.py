"""Dot products between updates, the same bits whoever holds which part: the one place where strategies get them.

A vector is tensors by key. Each tensor is cut into blocks of `exact.BLOCK` elements from its own start, and the results
of blocks are added in the order of keys and blocks. So parts that begin and end between blocks can be worked on apart.

Shape letters: V vectors of a family, Q pairs of them, B blocks, T elements of a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from heterotune.aggregation.exact import BLOCK, fold_blocks

Vector = Mapping[str, Tensor]
"""Key -> float64, flat: what is here of a tensor; on a rank that has no part of it, no element."""
Family = Sequence[Vector]
"""Vectors with the same keys."""
Gram = list[list[float]]

_TILE_ELEMENTS = BLOCK  # the products of a few vectors stay in a core's cache


class Grams(Protocol):
    """Gives all dot products within families of vectors, as if the whole of every tensor were here."""

    def __call__(self, families: Iterable[Family]) -> list[Gram]:
        """Return one V × V matrix a family.

        Args:
            families: Every rank passes the same families in the same order, each with its own parts. A family is looked
                at when its turn comes and not kept longer than until the next one is there.
        """
        ...


@dataclass(frozen=True)
class BlockProducts:
    """A family's dot products by block: key -> float64, shape (B, Q), pairs (0, 0), (1, 0), (1, 1), (2, 0) ..."""

    num_vectors: int
    of_key: dict[str, Tensor]


def whole_grams(families: Iterable[Family]) -> list[Gram]:
    """Return the Gram matrices of vectors that are all here; see `Grams`."""
    return [add_up(block_products(family)) for family in families]


def block_products(family: Family) -> BlockProducts:
    """Return the products of every pair's blocks; parts must begin where a block does."""
    return BlockProducts(
        len(family), {key: _of_tensors([vector[key] for vector in family]) for key in sorted(family[0])}
    )


def add_up(products: BlockProducts) -> Gram:
    """Add the results of blocks in the order of keys and blocks."""
    totals_Q = [0.0] * (products.num_vectors * (products.num_vectors + 1) // 2)
    for key in sorted(products.of_key):
        for row_Q in products.of_key[key].tolist():
            totals_Q = [total + value for total, value in zip(totals_Q, row_Q, strict=True)]
    gram = [[0.0] * products.num_vectors for _ in range(products.num_vectors)]
    for total, (i, j) in zip(totals_Q, _pairs(products.num_vectors), strict=True):
        gram[i][j] = gram[j][i] = total
    return gram


def _pairs(num_vectors: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(num_vectors) for j in range(i + 1)]


def _of_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return the dot products of the blocks of all pairs, shape (B, Q)."""
    pairs = _pairs(len(tensors))
    product_QT = tensors[0].new_empty(len(pairs), min(_TILE_ELEMENTS, len(tensors[0])))
    results = [tensors[0].new_empty(0, len(pairs))]
    for tile_V in zip(*(tensor.split(_TILE_ELEMENTS) for tensor in tensors), strict=True):
        used_QT = product_QT[:, : len(tile_V[0])]
        for (i, j), product_T in zip(pairs, used_QT, strict=True):
            torch.mul(tile_V[i], tile_V[j], out=product_T)
        results.append(fold_blocks(used_QT).T.clone())
    return torch.cat(results)
