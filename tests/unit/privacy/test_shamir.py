"""Any `threshold` shares give the secret back; fewer give nothing."""

from __future__ import annotations

from itertools import combinations

import pytest

from heterotune.errors import TooFewClients
from heterotune.privacy.key_agreement import PRIME
from heterotune.privacy.shamir import recover, split
from heterotune.randomness import generator


def shares_of(secret: int, threshold: int, purpose: str = "shares") -> dict[int, int]:
    return split(secret, points=[1, 2, 5, 7, 9], threshold=threshold, draw=generator(1, 2, 3, purpose))


@pytest.mark.parametrize("secret", [0, 1, 2**200 + 17, PRIME - 1])
@pytest.mark.parametrize("threshold", [1, 3, 5])
def test_any_shares_enough_give_the_secret(secret, threshold):
    shares = shares_of(secret, threshold)
    for points in combinations(shares, threshold):
        assert recover({point: shares[point] for point in points}, threshold=threshold) == secret
    assert recover(shares, threshold=threshold) == secret


def test_fewer_shares_fit_every_secret_alike():
    # Two of three points: for any secret there is exactly one third share that fits, so the two say nothing about it.
    shares = shares_of(42, 3)
    two = {point: shares[point] for point in (1, 2)}
    others = {recover({**two, 5: third}, threshold=3) for third in range(1000)}
    assert len(others) == 1000


def test_shares_depend_on_the_draw_and_too_few_are_refused():
    assert shares_of(42, 3) != shares_of(42, 3, "other")
    with pytest.raises(TooFewClients, match="secure sum: 2 shares of a secret are there, 3 are needed"):
        recover({1: 5, 2: 6}, threshold=3)


def test_a_wrong_share_gives_another_secret():
    shares = shares_of(42, 3)
    assert recover({**shares, 1: shares[1] + 1}, threshold=3) != 42
