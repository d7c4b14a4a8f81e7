"""Masked updates in a rank's sum, what the root takes off again, and what both put into the ledger."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from heterotune.aggregation.exact import ExactSum
from heterotune.collective.ledger import Ledger
from heterotune.config.privacy_options import SecureAggregationOptions
from heterotune.errors import TooFewClients
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.round_plan import RoundPlan
from heterotune.secure_round import MaskedSum, make_group, unmask_sum

CLIENTS = tuple(Client(number, 0, 10) for number in (3, 4, 6, 8))
CHUNK = Chunk(0, CLIENTS[:3], (1,) * 3)
GROUP = make_group(RoundPlan(2, (CHUNK,), ((CHUNK,),), {CLIENTS[3]: "late"}), 0, "a", SecureAggregationOptions(), 7)
UPDATE_KP = torch.tensor([[0.5, -2.0], [3.0, 0.25], [-1.0, 1.0]])
WEIGHT_K = torch.full((3,), 0.25, dtype=torch.float64)


def masked_sums(ledger: Ledger) -> list[ExactSum]:
    """Sums of two ranks with clients 3 and 4, and 6."""
    sums = [ExactSum(2), ExactSum(2)]
    MaskedSum(sums[0], GROUP, ledger).add(UPDATE_KP[:2], WEIGHT_K[:2], [3, 4])
    MaskedSum(sums[1], GROUP, ledger).add(UPDATE_KP[2:], WEIGHT_K[2:], [6])
    return sums


def test_the_unmasked_sum_is_the_plain_one_bit_for_bit_and_ranks_see_noise():
    plain, ledger = ExactSum(2), Ledger()
    plain.add(UPDATE_KP, WEIGHT_K, [3, 4, 6])
    total, other = masked_sums(ledger)
    assert (other.sum_P - (-(2**48))).abs().min() > 2**40  # what client 6 adds says nothing of its -0.25
    total.merge(other)
    assert total.counters == plain.counters and not torch.equal(total.sum_P, plain.sum_P)
    unmask_sum(total, GROUP, {3, 4, 6}, ledger)
    assert torch.equal(total.sum_P, plain.sum_P)
    counted = {(entry.client_id, entry.direction, entry.group.removeprefix("secure_sum.")) for entry in ledger}
    assert {kind for client_id, _, kind in counted if client_id == 8} == {"keys", "shares"}
    assert {kind for client_id, _, kind in counted if client_id == 6} == {
        "keys",
        "shares",
        "masked",
        "survivors",
        "revealed",
    }
    assert {entry.num_bytes for entry in ledger if entry.group == "secure_sum.masked"} == {36 + 8 * 2}


def test_too_few_clients_leave_the_sum_masked():
    total, _ = masked_sums(Ledger())
    ledger = Ledger()
    with pytest.raises(TooFewClients, match="2 masked updates arrived, 3 are needed"):
        unmask_sum(total, GROUP, {3, 4}, ledger)
    assert Counter((entry.direction, entry.group) for entry in ledger) == {
        (direction, f"secure_sum.{kind}"): 4 for direction in ("up", "down") for kind in ("keys", "shares")
    }  # which all four had sent by then
