"""Shamir's secret sharing: any `threshold` shares give the secret back, fewer say nothing about it.

The secret is the value at 0 of a random polynomial of degree threshold - 1 over the integers modulo a prime; a share is
its value at the holder's point.

Source: Shamir, "How to Share a Secret", 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from heterotune.errors import TooFewClients
from heterotune.privacy.key_agreement import PRIME, draw_secret


def split(secret: int, *, points: Sequence[int], threshold: int, draw: np.random.Generator) -> dict[int, int]:
    """Return point -> share.

    Args:
        secret: Below `PRIME`.
        points: One for each holder, from 1 and below `PRIME`, all different.
        threshold: Shares that are needed, 1 to the number of holders.
        draw: Where the polynomial's other coefficients come from.
    """
    assert 1 <= threshold <= len(points) and 0 < min(points) and len(set(points)) == len(points)
    coefficients = [secret, *(draw_secret(draw) for _ in range(threshold - 1))]
    return {point: _value_at(point, coefficients) for point in points}


def recover(shares: Mapping[int, int], *, threshold: int) -> int:
    """Return the secret from point -> share: Lagrange's interpolation at 0 through the `threshold` lowest points.

    Raises:
        TooFewClients: If there are fewer shares than the threshold.
    """
    if len(shares) < threshold:
        raise TooFewClients(f"secure sum: {len(shares)} shares of a secret are there, {threshold} are needed")
    points = sorted(shares)[:threshold]
    return sum(shares[point] * _weight_at_0(point, points) for point in points) % PRIME


def _value_at(point: int, coefficients: Sequence[int]) -> int:
    """Return the polynomial's value, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def _weight_at_0(point: int, points: Sequence[int]) -> int:
    """Return Π_j j / (j - point) over the other points j."""
    above = below = 1
    for other in points:
        if other != point:
            above, below = above * other % PRIME, below * (other - point) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
