"""Which rank aggregates which elements, where all of them share the work: cuts fall between blocks of dot products."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from heterotune.aggregation.exact import BLOCK


@dataclass(frozen=True)
class Slices:
    """The tensors, laid end to end in the order of their keys, in one run of blocks for each rank."""

    sizes: Mapping[str, int]
    """Key -> elements, in the order of keys."""
    bounds: tuple[int, ...]
    """Where slices begin and end in the row of all tensors; each a place between two blocks of a tensor."""

    @cached_property
    def starts(self) -> dict[str, int]:
        """Key -> where its tensor begins in the row of all tensors."""
        return dict(zip(self.sizes, accumulate(self.sizes.values(), initial=0), strict=False))

    def of(self, mpi_rank: int) -> dict[str, slice]:
        """Return key -> elements, for the tensors of which a rank has some."""
        first, end = self.bounds[mpi_rank], self.bounds[mpi_rank + 1]
        keys, starts = list(self.starts), list(self.starts.values())
        parts = {}
        for key in keys[max(0, bisect_right(starts, first) - 1) : bisect_right(starts, end)]:
            start, size = self.starts[key], self.sizes[key]
            part = slice(max(0, first - start), min(size, end - start))
            if part.start < part.stop:
                parts[key] = part
        return parts


def cut(sizes: Mapping[str, int], num_holders: Mapping[str, int], num_ranks: int) -> Slices:
    """Cut tensors so that every rank gets about the same number of numbers to add.

    Args:
        sizes: Key -> elements.
        num_holders: Key -> how many sums over model types there are of it in the round; none where it is missing.
        num_ranks: How many slices.
    """
    ordered = {key: sizes[key] for key in sorted(sizes)}
    keys, holders = list(ordered), [num_holders.get(key, 0) for key in ordered]
    starts = [*accumulate(ordered.values(), initial=0)]
    work = [*accumulate((ordered[key] * count for key, count in zip(keys, holders, strict=True)), initial=0)]
    bounds = [0]
    for mpi_rank in range(1, num_ranks):
        target = work[-1] * mpi_rank // num_ranks
        place = bisect_right(work, target) - 1  # the tensor in which this much work is done
        if place == len(keys):
            bounds.append(starts[-1])
            continue
        block_work = BLOCK * holders[place]
        num_blocks = (2 * (target - work[place]) + block_work) // (2 * block_work)  # to the nearest block
        bounds.append(starts[place] + min(num_blocks * BLOCK, ordered[keys[place]]))
    return Slices(ordered, (*bounds, starts[-1]))
