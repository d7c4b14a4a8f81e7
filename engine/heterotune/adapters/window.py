"""Which part of a larger common tensor a model type holds. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """A part of a common tensor: along every axis as many places as the model type's own tensor has.

    Attributes:
        full_shape: Shape of the common tensor.
        rolling_axis: The axis along which the part moves on by one place a round, round the end to the beginning; None
            = the part is always the first places of every axis.
    """

    full_shape: tuple[int, ...]
    rolling_axis: int | None = None

    def places(self, shape: Sequence[int], round_number: int) -> np.ndarray:
        """Return where the elements of a type's tensor are in the flat common tensor, int64, in the type's order.

        Args:
            shape: Of the type's tensor; along no axis longer than the common one.
            round_number: From 1: the round in which the type trains it.
        """
        axes = []
        for axis, (length, full_length) in enumerate(zip(shape, self.full_shape, strict=True)):
            assert length <= full_length, f"axis {axis}: {length} places of {full_length}"
            first = round_number - 1 if axis == self.rolling_axis else 0
            axes.append((np.arange(length) + first) % full_length)
        return np.ravel_multi_index(np.ix_(*axes), self.full_shape).ravel()
