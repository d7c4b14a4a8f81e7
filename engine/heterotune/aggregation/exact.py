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
NUM_COUNTERS = 2
"""Numbers at the beginning of a sum: its clients, and the sum of their quantized weights."""

_TILE_ELEMENTS = 1 << 17  # a tile in float64 and its copies stay in a core's cache


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

    def __init__(self, num_elements: int, *, group: str = "update", buffer: Tensor | None = None) -> None:
        """Begin with nothing added.

        Args:
            num_elements: P.
            group: The tensor group's name, for messages.
            buffer: Memory to use and overwrite, int64, shape (`NUM_COUNTERS` + P,); None = new memory.
        """
        self.group = group
        self._buffer = torch.empty(NUM_COUNTERS + num_elements, dtype=torch.int64) if buffer is None else buffer
        assert self._buffer.dtype == torch.int64 and self._buffer.shape == (NUM_COUNTERS + num_elements,)
        self._buffer.zero_()
        self._sum_P = self._buffer[NUM_COUNTERS:]

    @property
    def num_clients(self) -> int:
        """How many clients were added, here and in what was merged."""
        return int(self._buffer[0])

    @property
    def counters(self) -> list[int]:
        """The numbers at the beginning; see `NUM_COUNTERS`."""
        return self._buffer[:NUM_COUNTERS].tolist()

    @property
    def sum_P(self) -> Tensor:
        """The sum's own memory, int64, shape (P,)."""
        return self._sum_P

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
            rows_KT = _quantize_checked(tile_KT, scale_K1)
            sum_T += (rows_KT[0] if len(rows_KT) == 1 else rows_KT.sum(dim=0)).to(sum_T.device)
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
        check_counters(self.counters, group=self.group, num_clients=num_clients)
        return self._sum_P.double() / SCALE

    def finish(self, *, num_clients: int | None = None) -> Tensor:
        """Return what `to_float64` does, in the sum's own memory: the sum is used up."""
        check_counters(self.counters, group=self.group, num_clients=num_clients)
        return to_float64_in_place(self._sum_P)


def check_counters(counters: Sequence[int], *, group: str, num_clients: int | None) -> None:
    """Refuse a sum to which not the right clients were added; see `ExactSum.to_float64`."""
    clients_added, weight_added = counters
    if num_clients is not None and clients_added != num_clients:
        raise AggregationError(f"{group}: {clients_added} clients were added where {num_clients} were expected")
    if weight_added > SCALE + clients_added:  # each quantized weight may be rounded up
        total = weight_added / SCALE
        raise AggregationError(f"{group}: the weights of {clients_added} clients add up to {total:.9g}, more than 1")


def to_float64_in_place(sum_P: Tensor) -> Tensor:
    """Turn a finished sum into float64 in its own memory, so that no second buffer is needed; the integers are gone.

    Args:
        sum_P: int64, shape (P,), contiguous.

    Returns:
        The same memory as float64.
    """
    mean_P = sum_P.view(torch.float64)
    for sum_T, mean_T in zip(sum_P.split(_TILE_ELEMENTS), mean_P.split(_TILE_ELEMENTS), strict=True):
        mean_T.copy_(sum_T.double().mul_(1.0 / SCALE))
    return mean_P


def weighted_sum(vectors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the sum of share * vector, added in order, a new tensor.

    Args:
        vectors: float64, shape (P,) each. Not changed.
        shares: One number for each.
    """
    total_P = torch.empty_like(vectors[0])
    for total_T, *tiles in zip(*(vector_P.split(_TILE_ELEMENTS) for vector_P in (total_P, *vectors)), strict=True):
        torch.mul(tiles[0], shares[0], out=total_T)
        for tile_T, share in zip(tiles[1:], shares[1:], strict=True):
            total_T += tile_T * share
    return total_P


def block_dots(a_P: Tensor, b_P: Tensor) -> Tensor:
    """Return the dot product of each block of `BLOCK` elements, float64, shape (..., ceil(P / BLOCK)).

    Products are folded in halves, elementwise, so the bits depend neither on threads nor on the BLAS nor on the device.

    Args:
        a_P: float64, shape (..., P). Not changed.
        b_P: The same.
    """
    assert a_P.dtype == b_P.dtype == torch.float64 and a_P.shape == b_P.shape
    return fold_blocks(a_P * b_P)


def fold_blocks(product_P: Tensor) -> Tensor:
    """Return the sum of each block of products, float64, shape (..., ceil(P / BLOCK)); see `block_dots`.

    Args:
        product_P: float64, shape (..., P), contiguous. Overwritten.
    """
    num_elements = product_P.shape[-1]
    if num_elements == 0:
        return product_P.new_zeros(*product_P.shape[:-1], 0)
    width = min(BLOCK, 1 << (num_elements - 1).bit_length())  # folding in more zeros would change no bit
    padding = -num_elements % width
    if padding:
        product_P = torch.nn.functional.pad(product_P, (0, padding))
    fold = product_P.unflatten(-1, (-1, width))
    while width > 1:
        width //= 2
        fold = fold[..., :width].add_(fold[..., width:])
    return fold[..., 0]


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
    low_K, high_K = update_KP.amin(dim=1), update_KP.amax(dim=1)  # NaN passes through; aminmax takes 10 times as long
    peak_K = torch.maximum(-low_K, high_K)
    for client_id, peak in zip(client_ids, peak_K.tolist(), strict=True):
        if not peak < float("inf"):
            raise AggregationError(f"client {client_id}: its update of {group} is not finite")
        if peak >= LIMIT:
            raise AggregationError(
                f"client {client_id}: its update of {group} reaches {peak:.6g}; {LIMIT:.0f} and above is refused"
            )
