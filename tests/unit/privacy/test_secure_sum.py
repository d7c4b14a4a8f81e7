"""A secure sum is the plain sum bit for bit, whoever is lost; what travels says nothing; nothing damaged is taken."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from heterotune.aggregation.exact import ExactSum
from heterotune.errors import TooFewClients, WireError
from heterotune.privacy import secure_sum as arithmetic
from heterotune.privacy.key_agreement import PRIME, agree, from_bytes, public_key, seal, unseal
from heterotune.privacy.secure_exchange import (
    begin,
    deliver_shares,
    finish,
    masked_message,
    read_masked,
    reveal,
    secure_sum,
    share_secrets,
    side_bytes,
)
from heterotune.privacy.secure_messages import HEADER_BYTES, KEYS, MASKED, REVEALED, SHARES, decode, encode
from heterotune.privacy.secure_sum import mask, secure_group, unmask

IDS = (2, 3, 5, 7, 11, 13)
NUM_ELEMENTS = 20_000


def group(client_ids=IDS, threshold=0.6, run_seed=17, round_number=4, model_type="small"):
    return secure_group(
        client_ids, threshold=threshold, run_seed=run_seed, round_number=round_number, model_type=model_type
    )


def integers(num_elements: int = NUM_ELEMENTS) -> dict[int, np.ndarray]:
    """Updates of clients as the exact sums hold them, counters included."""
    weight_1 = torch.tensor([1 / len(IDS)], dtype=torch.float64)
    result = {}
    for client_id in IDS:
        exact = ExactSum(num_elements)
        draw = np.random.Generator(np.random.Philox(key=client_id))
        exact.add(torch.from_numpy(draw.standard_normal((1, num_elements)) * 1e-3), weight_1, [client_id])
        result[client_id] = exact.as_array().copy()
    return result


CASES = {
    "nobody is lost": ((), ()),
    "one is lost before its vector": ((5,), ()),
    "two are lost before their vectors, the first and the last": ((2, 13), ()),
    "one is lost after its vector": ((), (7,)),
    "one before, one after": ((3,), (11,)),
}


@pytest.mark.parametrize(("lost_before", "lost_after"), CASES.values(), ids=CASES.keys())
def test_the_sum_is_the_plain_sum_bit_for_bit(lost_before, lost_after):
    plain = {client_id: values for client_id, values in integers().items() if client_id not in lost_before}
    before = {client_id: values.copy() for client_id, values in plain.items()}
    total_P, _ = secure_sum(group(), plain, staying=[u for u in plain if u not in lost_after])
    assert total_P.dtype == np.int64 and np.array_equal(total_P, sum(plain.values()))
    assert all(np.array_equal(plain[u], before[u]) for u in plain)
    assert total_P[0] == len(plain)  # the exact sum's own counter came through


def test_ranks_may_add_masked_vectors_in_any_grouping():
    plain, chosen = integers(), group()
    parts = [
        sum(mask(chosen, client_id, plain[client_id]).view(np.int64) for client_id in ids)
        for ids in ((13, 2), (5,), (3, 11, 7))
    ]
    total_P = parts[2] + parts[0] + parts[1]
    finish(chosen, total_P, begin(chosen)[0], arrived=IDS, staying=IDS)
    assert np.array_equal(total_P, sum(plain.values()))


def test_extreme_integers_wrap_around_and_come_back():
    plain = {2: np.array([2**63 - 1, -(2**63), 5]), 3: np.array([-5, 2**63 - 1, 0]), 5: np.array([-7, 0, 0])}
    total_P, _ = secure_sum(group((2, 3, 5)), plain, staying=(2, 3, 5))
    assert total_P.tolist() == [2**63 - 1 - 12, -1, 5]


def test_tiles_change_no_bit(monkeypatch):
    values = integers(1001)[5]
    whole = mask(group(), 5, values)
    monkeypatch.setattr(arithmetic, "_TILE_ELEMENTS", 77)
    assert np.array_equal(mask(group(), 5, values), whole)


def chi_square_of_bytes(payload: np.ndarray) -> float:
    """Chi-square of the 256 byte values against the uniform distribution: 255 degrees of freedom, so 255 ± 23."""
    counts = np.bincount(payload.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return abs(float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1]))


def test_a_masked_payload_looks_like_noise_whatever_the_update_is():
    plain = integers()[5][2:]
    assert chi_square_of_bytes(plain) > 10_000  # a plain update does not
    for update in (plain, np.zeros_like(plain), plain * 1000):
        masked = mask(group(), 5, update)
        assert 150 < chi_square_of_bytes(masked) < 360
        assert 150 < chi_square_of_bytes(masked.byteswap()) < 360
        if update.any():
            assert correlation(masked.view(np.int64), update) < 4.5 / np.sqrt(len(update))


def test_masked_payloads_of_two_updates_have_one_distribution():
    # Kolmogorov and Smirnov's two-sample statistic; the masks differ, as they do between two rounds.
    first = np.sort(mask(group(), 5, integers()[5]))
    second = np.sort(mask(group(round_number=5), 5, np.zeros_like(integers()[5])))
    both = np.concatenate([first, second])
    gaps = np.searchsorted(first, both, side="right") - np.searchsorted(second, both, side="right")
    assert np.abs(gaps).max() / len(first) < 1.95 * np.sqrt(2 / len(first))  # p = 0.001


def test_masks_differ_by_seed_round_type_and_client_and_are_reproducible():
    values = integers()[5]
    first = mask(group(), 5, values)
    assert np.array_equal(first, mask(group(), 5, values))
    others = [mask(group(**other), 5, values) for other in ({"run_seed": 18}, {"round_number": 5}, {"model_type": "b"})]
    for other in (*others, mask(group(), 7, values)):
        assert correlation(first, other) < 4.5 / np.sqrt(len(values))
        assert np.mean(first == other) < 1e-3


def test_a_sum_without_one_masked_vector_is_still_masked():
    plain, chosen = integers(), group()
    total_P = sum(mask(chosen, client_id, plain[client_id]) for client_id in IDS[1:])
    assert 150 < chi_square_of_bytes(total_P) < 360
    partly = total_P.copy()
    # the server took the first for arrived: wrong masks come off
    finish(chosen, partly, begin(chosen)[0], arrived=IDS, staying=IDS)
    assert 150 < chi_square_of_bytes(partly) < 360


def test_messages_are_counted_by_kind_and_size():
    plain = {client_id: values for client_id, values in integers(1000).items() if client_id != 5}
    _, sent = secure_sum(group(), plain, staying=(2, 3, 7, 11))
    sizes = Counter()
    for message in sent:
        sizes[message.direction, message.kind.name, len(message.data) - HEADER_BYTES] += 1
    assert sizes == {
        ("up", "keys", 72): 6,
        ("down", "keys", 6 * 72): 6,
        ("up", "shares", 5 * 88): 6,
        ("down", "shares", 5 * 88): 6,
        ("up", "masked", 8 * 1002): 5,
        ("down", "survivors", 8 * 5): 4,
        ("up", "revealed", 6 * 40): 4,
    }


@pytest.mark.parametrize("arrived", [IDS, IDS[1:], IDS[:3]], ids=["all", "one is lost", "too few"])
def test_bytes_are_known_before_messages_are_made(arrived):
    chosen, num_bytes = group(), Counter()
    inboxes, sent = begin(chosen)
    if len(arrived) >= chosen.num_needed:
        sent += finish(chosen, np.zeros(1, dtype=np.int64), inboxes, arrived=arrived, staying=arrived)
    for message in sent:
        num_bytes[message.client_id, message.direction] += len(message.data)
    for u in IDS:
        assert side_bytes(chosen, u, arrived=arrived) == (num_bytes[u, "down"], num_bytes[u, "up"])


def test_sealed_shares_are_no_plain_shares():
    chosen = group()
    message = share_secrets(chosen, 5)
    own = chosen.secrets[5]
    assert own.mask_key.to_bytes(32, "little") not in message and own.own_seed.to_bytes(32, "little") not in message
    sealed = seal(b"k" * 32, b"a share")
    assert b"a share" not in sealed and unseal(b"k" * 32, sealed) == b"a share"


def test_both_sides_of_a_pair_agree():
    assert agree(12345, public_key(67890)) == agree(67890, public_key(12345)) != agree(12345, public_key(67891))


def test_too_few_clients():
    with pytest.raises(TooFewClients, match="secure sum of small in round 4: 1 clients, whose sum would hide nobody"):
        group((3,))
    plain = integers(10)
    with pytest.raises(TooFewClients, match="3 shares of a secret are there, 4 are needed"):
        secure_sum(group(), plain, staying=(2, 3, 5))
    with pytest.raises(TooFewClients, match="3 masked updates arrived, 4 are needed"):
        secure_sum(group(), {u: plain[u] for u in (2, 3, 5)}, staying=(2, 3, 5))
    assert group(threshold=0.67).num_needed == 5 and group(threshold=2 / 3).num_needed == 4


def revealed_by(client_id: int) -> bytes:
    chosen = group()
    inboxes = deliver_shares(chosen, {u: share_secrets(chosen, u) for u in IDS})
    return reveal(chosen, client_id, IDS, inboxes[client_id])


def test_messages_that_are_not_what_was_asked_for():
    chosen, total_P = group(), np.zeros(3, dtype=np.uint64)
    shared = {u: share_secrets(chosen, u) for u in IDS}
    inboxes = deliver_shares(chosen, shared)
    with pytest.raises(WireError, match="sealed message of a secure sum was changed, or is for somebody else"):
        reveal(chosen, 5, IDS, inboxes[7])
    some = encode(SHARES, bytes(decode(SHARES, inboxes[5], round_number=4)[1][:88]), client_id=5, round_number=4)
    with pytest.raises(WireError, match="client 5 holds shares of 2 clients, not of all of small"):
        reveal(chosen, 5, IDS, some)
    with pytest.raises(WireError, match="client 5 did not reveal one share of every client of small"):
        unmask(chosen, total_P, arrived=IDS, revealed={5: revealed_by(7)})
    with pytest.raises(WireError, match="client 2 masked 3 elements where 4 were expected"):
        read_masked(chosen, masked_message(chosen, 2, total_P), num_elements=4)
    assert not total_P.any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTSS", "a message of a secure sum has at least 36 bytes, got 4"),
        (lambda good: b"X" + good[1:], "not a message of a secure sum of version 1: it begins with"),
        (lambda good: good[:-1], r"a message of a secure sum \(keys\) says 72 bytes and has 71"),
        (lambda good: good[:-1] + b"x", "damaged on its way: its checksum differs"),
        (
            encode(REVEALED, b"", client_id=3, round_number=4),
            r"is of kind 5 of round 4, expected 1 \(keys\) of round 4",
        ),
        (encode(KEYS, b"", client_id=3, round_number=9), r"is of kind 1 of round 9, expected 1 \(keys\) of round 4"),
    ],
)
def test_damaged_messages(data, message):
    good = encode(KEYS, bytes(72), client_id=3, round_number=4)
    assert decode(KEYS, good, round_number=4) == (3, bytes(72))
    with pytest.raises(WireError, match=message):
        decode(KEYS, data if isinstance(data, bytes) else data(good), round_number=4)
    assert decode(MASKED, encode(MASKED, bytes(8), client_id=1, round_number=2), round_number=2)[0] == 1


def test_numbers_that_are_no_keys():
    for bad in (0, 1, PRIME - 1, PRIME):
        with pytest.raises(WireError, match="a public key of a secure sum is .*, not between 1 and"):
            agree(5, bad)
    with pytest.raises(WireError, match="a number of a secure sum is not below 2.255 - 19"):
        from_bytes(b"\xff" * 32)
