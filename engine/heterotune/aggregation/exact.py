"""Sums over clients that do not depend on order, grouping or the number of ranks.

Floating-point addition is not associative, so a client's weighted update becomes integers, round(weight * update *
2^50), and integers are added. Dot products stay in float64 but always add in one fixed order.

Shape letters: K clients, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from heterotune.errors import AggregationError

SCALE_BITS = 50
SCALE = 2.0**SCALE_BITS
LIMIT = 2.0 ** (63 - SCALE_BITS)
"""No element of an update may reach this: weights add up to at most 1, so no sum then leaves int64."""
BLOCK = 65_536
"""Elements per block of a dot product."""

_TILE_ELEMENTS = 1 << 20
_NUM_COUNTERS = 2  # number of clients, sum of their quantized weights


def quantize(update_KP: Tensor, weight_K: Tensor, *, client_ids: Sequence[int], group: str = "update") -> Tensor:
    """Turn weighted updates into integers, round(weight * update * 2^50), ties to even.

    Args:
        update_KP: One row per client, any float dtype and device. Not changed.
        weight_K: Each client's share of the sum, float64, 0 to 1.
        client_ids: K client ids, for messages.
        group: The tensor group's name, for messages.

    Returns:
        int64, shape (K, P), on the update's device.

    Raises:
        AggregationError: If a weight is not in 0..1, or an element is not finite or reaches `LIMIT`; names the client.
    """
    _check_weights(weight_K, client_ids, group)
    _check_updates(update_KP, client_ids, group)
    return _quantize_checked(update_KP, _scale_K1(update_KP, weight_K))


class ExactSum:
    """A weighted sum over clients, in integers. Sums of parts can be merged in any order and give the same bits."""

    def __init__(self, num_elements: int, *, group: str = "update") -> None:
        """Begin with nothing added.

        Args:
            num_elements: P.
            group: The tensor group's name, for messages.
        """
        self.group = group
        self._buffer = torch.zeros(_NUM_COUNTERS + num_elements, dtype=torch.int64)
        self._sum_P = self._buffer[_NUM_COUNTERS:]

    @property
    def num_clients(self) -> int:
        """How many clients were added, here and in what was merged."""
        return int(self._buffer[0])

    @property
    def num_elements(self) -> int:
        """P."""
        return self._sum_P.numel()

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Add K clients; see `quantize`. Nothing is added if one of them is refused.

        Args:
            update_KP: One row per client, any float dtype and device. Not changed.
            weight_K: Each client's share of the whole sum (over all ranks), float64.
            client_ids: K client ids, for messages.

        Raises:
            AggregationError: If a weight or an update is out of range; names the client.
        """
        assert update_KP.shape == (len(client_ids), self.num_elements), "one row per client, one column per element"
        _check_weights(weight_K, client_ids, self.group)
        _check_updates(update_KP, client_ids, self.group)
        scale_K1 = _scale_K1(update_KP, weight_K)
        tile = max(1, _TILE_ELEMENTS // max(1, len(client_ids)))
        for tile_KT, sum_T in zip(update_KP.split(tile, dim=1), self._sum_P.split(tile), strict=True):
            sum_T += _quantize_checked(tile_KT, scale_K1).sum(dim=0).to(sum_T.device)
        self._buffer[0] += len(client_ids)
        self._buffer[1] += (weight_K * SCALE).round().long().sum().to(self._buffer.device)

    def merge(self, other: ExactSum) -> None:
        """Add another sum of the same elements; the other is not changed."""
        assert self.num_elements == other.num_elements
        self._buffer += other._buffer

    def as_array(self) -> np.ndarray:
        """Return the sum's own memory, int64, counters first: what `Channel.sum_to_root` adds up in place."""
        return self._buffer.numpy()

    def to_float64(self, *, num_clients: int | None = None) -> Tensor:
        """Return the sum of weight * update, float64, shape (P,), a new tensor.

        Args:
            num_clients: How many clients must have been added; None does not check.

        Raises:
            AggregationError: If not that many were added, or if the weights add up to more than 1, so that int64 may
                have overflowed.
        """
        if num_clients is not None and self.num_clients != num_clients:
            raise AggregationError(
                f"{self.group}: {self.num_clients} clients were added where {num_clients} were expected"
            )
        if int(self._buffer[1]) > SCALE + self.num_clients:  # each quantized weight may be rounded up
            total = int(self._buffer[1]) / SCALE
            raise AggregationError(
                f"{self.group}: the weights of {self.num_clients} clients add up to {total:.9g}, more than 1"
            )
        return self._sum_P.double() / SCALE


def block_dots(a_P: Tensor, b_P: Tensor) -> Tensor:
    """Return the dot product of each block of `BLOCK` elements, float64, shape (ceil(P / BLOCK),).

    Products are folded in halves, elementwise, so the bits depend neither on threads nor on the BLAS nor on the device.

    Args:
        a_P: float64, shape (P,). Not changed.
        b_P: The same.
    """
    assert a_P.dtype == b_P.dtype == torch.float64 and a_P.shape == b_P.shape and a_P.ndim == 1
    if a_P.numel() == 0:
        return a_P.new_zeros(0)
    width = min(BLOCK, 1 << (a_P.numel() - 1).bit_length())  # folding in more zeros would change no bit
    fold = torch.nn.functional.pad(a_P * b_P, (0, -a_P.numel() % width)).view(-1, width)
    while width > 1:
        width //= 2
        fold = fold[:, :width] + fold[:, width:]
    return fold[:, 0]


def add_in_order(block_values: Tensor) -> float:
    """Add block results, float64, shape (blocks,), first to last."""
    total = 0.0
    for value in block_values.tolist():
        total += value
    return total


def blocked_dot(a_P: Tensor, b_P: Tensor) -> float:
    """Return the dot product of two float64 vectors: fixed blocks, added in block order, the same bits everywhere."""
    return add_in_order(block_dots(a_P, b_P))


def _scale_K1(update_KP: Tensor, weight_K: Tensor) -> Tensor:
    """Return weight * 2^50 (exact: a power of two) as a column on the update's device."""
    assert weight_K.dtype == torch.float64
    return (weight_K * SCALE).to(update_KP.device).unsqueeze(1)


def _quantize_checked(update_KP: Tensor, scale_K1: Tensor) -> Tensor:
    """Quantize rows that are known to be in range."""
    return (update_KP.double() * scale_K1).round_().long()


def _check_weights(weight_K: Tensor, client_ids: Sequence[int], group: str) -> None:
    """Refuse a weight outside 0..1, NaN included."""
    for client_id, weight in zip(client_ids, weight_K.tolist(), strict=True):
        if not 0.0 <= weight <= 1.0:
            raise AggregationError(f"client {client_id}: its weight in {group} is {weight!r}, not between 0 and 1")


def _check_updates(update_KP: Tensor, client_ids: Sequence[int], group: str) -> None:
    """Refuse a row with an element that is not finite or too large."""
    if update_KP.numel() == 0:
        return
    low_K, high_K = torch.aminmax(update_KP, dim=1)  # NaN passes through to both
    peak_K = torch.maximum(-low_K, high_K)
    for client_id, peak in zip(client_ids, peak_K.tolist(), strict=True):
        if not peak < float("inf"):
            raise AggregationError(f"client {client_id}: its update of {group} is not finite")
        if peak >= LIMIT:
            raise AggregationError(
                f"client {client_id}: its update of {group} reaches {peak:.6g}; {LIMIT:.0f} and above is refused"
            )
