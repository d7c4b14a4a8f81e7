"""A round's sums, one for each model type in the cohort, side by side in memory that all rounds use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from heterotune.aggregation.exact import NUM_COUNTERS, ExactSum


class RoundSums:
    """Sums by the place of their model type. What all of them hold can be added up over ranks in one call."""

    def __init__(self, num_elements: Sequence[int]) -> None:
        """Reserve memory for a cohort with clients of every model type; pages are touched by the first round.

        Args:
            num_elements: The elements of each model type's sum.
        """
        self._num_elements = tuple(num_elements)
        self._buffer = torch.empty(sum(NUM_COUNTERS + size for size in num_elements), dtype=torch.int64)
        self._used = self._touched = 0
        self.of_place: dict[int, ExactSum] = {}

    def begin(self, places: Iterable[int]) -> dict[int, ExactSum]:
        """Return empty sums for the model types of a round; those of the round before are gone."""
        self.of_place, self._used = {}, 0
        for place in places:
            start, self._used = self._used, self._used + NUM_COUNTERS + self._num_elements[place]
            buffer = self._buffer[start : self._used]
            self.of_place[place] = ExactSum(self._num_elements[place], buffer=buffer)
        self._touched = max(self._touched, self._used)
        return self.of_place

    def as_array(self) -> np.ndarray:
        """Return the memory of the round's sums, counters included, int64: what `Channel.sum_to_root` adds in place."""
        return self._buffer[: self._used].numpy()

    def held_bytes(self) -> int:
        """Return the bytes that rounds have touched so far."""
        return self._touched * self._buffer.element_size()
