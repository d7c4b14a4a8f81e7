"""Dot products of vectors of which every rank has a slice: each does its blocks, all get the results of all blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from heterotune.aggregation.exact import BLOCK
from heterotune.aggregation.gram import BlockProducts, Family, Gram, add_up, block_products
from heterotune.aggregation.slices import Slices
from heterotune.collective.channel import Channel


@dataclass(frozen=True)
class ShardedGrams:
    """See `gram.Grams`. Every rank must call this. A block has one owner, so its bits travel unchanged."""

    slices: Slices
    channel: Channel

    def __call__(self, families: Iterable[Family]) -> list[Gram]:
        """Return all dot products within each family, the same on every rank."""
        products = [block_products(family) for family in families]
        if not products:
            return []
        width_of = _columns(products)
        sizes = [self._num_results(mpi_rank, width_of) for mpi_rank in range(self.channel.num_ranks)]
        bounds = [*accumulate(sizes, initial=0)]
        results = np.empty(bounds[-1])
        mine = results[bounds[self.channel.mpi_rank] : bounds[self.channel.mpi_rank + 1]]
        np.concatenate([mine[:0], *self._mine(products, width_of)], out=mine)
        self.channel.all_gather(results, bounds)
        return [add_up(whole) for whole in self._whole(products, torch.from_numpy(results), width_of)]

    def _parts(self, mpi_rank: int, width_of: dict[str, int]) -> Iterator[tuple[str, int]]:
        """Yield (key, blocks) for what a rank has of the keys in question, in the order of the row of all tensors."""
        for key, part in self.slices.of(mpi_rank).items():
            if key in width_of:
                yield key, -(-(part.stop - part.start) // BLOCK)

    def _num_results(self, mpi_rank: int, width_of: dict[str, int]) -> int:
        """Return how many numbers a rank contributes."""
        return sum(num_blocks * width_of[key] for key, num_blocks in self._parts(mpi_rank, width_of))

    def _mine(self, products: Sequence[BlockProducts], width_of: dict[str, int]) -> Iterator[np.ndarray]:
        """Yield this rank's results, key by key: a row for each block, the families' pairs side by side."""
        for key, _ in self._parts(self.channel.mpi_rank, width_of):
            yield torch.cat([one.of_key[key] for one in products if key in one.of_key], dim=1).flatten().numpy()

    def _whole(
        self, products: Sequence[BlockProducts], results: Tensor, width_of: dict[str, int]
    ) -> list[BlockProducts]:
        """Return the products with the blocks of all ranks."""
        rows: dict[str, list[Tensor]] = defaultdict(list)
        start = 0
        for mpi_rank in range(self.channel.num_ranks):
            for key, num_blocks in self._parts(mpi_rank, width_of):
                stop = start + num_blocks * width_of[key]
                rows[key].append(results[start:stop].view(num_blocks, width_of[key]))
                start = stop
        columns = {
            key: iter(
                torch.cat(parts).split([one.of_key[key].shape[1] for one in products if key in one.of_key], dim=1)
            )
            for key, parts in rows.items()
        }
        return [
            BlockProducts(one.num_vectors, {key: next(columns[key]) for key in one.of_key if key in columns})
            for one in products
        ]


def _columns(products: Sequence[BlockProducts]) -> dict[str, int]:
    """Return key -> how many numbers each of its blocks has over all families."""
    width_of: dict[str, int] = defaultdict(int)
    for one in products:
        for key, blocks in one.of_key.items():
            width_of[key] += blocks.shape[1]
    return dict(width_of)
