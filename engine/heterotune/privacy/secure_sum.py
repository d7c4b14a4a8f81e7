"""Secure aggregation, simulated: the server learns the sum of its clients' integers and no single client's.

After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", 2017, for clients and a
server that keep to the protocol. A simulation of its arithmetic and its messages, not cryptography (key_agreement.py).

Client u holds the integers q_u of the exact sums (aggregation/exact.py). It sends, modulo 2^64 and element by element,

    y_u = q_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) - Σ_{v < u} PRG(s_uv)

with a seed s_uv that only u and v know and a seed b_u of its own. In Σ_u y_u the pairs' masks cancel, exactly, because
sums modulo 2^64 are exact. What remains is taken off with the help of those who stayed: every client has shared its
seed b_u and its key for masks with all others (Shamir), and at the end they reveal, of each client, one of the two: of
those whose y_u arrived the seed b_u, of those who were lost before the key, from which the server makes their s_uv.
One's own mask is there for a y_u that comes late: its pairs' masks may be known by then.

Shape letters: P integers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from heterotune.errors import TooFewClients, WireError
from heterotune.privacy.key_agreement import agree, draw_secret, from_bytes, public_key, to_bytes
from heterotune.privacy.secure_messages import REVEALED, decode
from heterotune.privacy.shamir import recover
from heterotune.randomness import generator, generator_of_secret

_TILE_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Secrets:
    """What one client keeps to itself: a key for sealing, a key for masks (the root of all s_uv), and b_u."""

    sealing_key: int
    mask_key: int
    own_seed: int


@dataclass(frozen=True)
class SecureGroup:
    """The clients of one model type that sum securely in a round; every rank can make the same one, without messages.

    Attributes:
        client_ids: Its clients, in client order, all of which shared their secrets.
        num_needed: Clients that must stay to the end: the threshold of the secret sharing.
        run_seed: The run's seed.
        round_number: The round.
        model_type: Its name.
    """

    client_ids: tuple[int, ...]
    num_needed: int
    run_seed: int
    round_number: int
    model_type: str

    @cached_property
    def secrets(self) -> dict[int, Secrets]:
        """Client id -> its secrets. In a real federation each client has its own only."""
        return {client_id: self._draw_secrets(client_id) for client_id in self.client_ids}

    @cached_property
    def public_keys(self) -> dict[int, tuple[int, int]]:
        """Client id -> public keys for sealing and for masks: what the server tells everybody."""
        return {u: (public_key(own.sealing_key), public_key(own.mask_key)) for u, own in self.secrets.items()}

    def point_of(self, client_id: int) -> int:
        """Return where a client's shares lie on the polynomials: its place in the group, from 1."""
        return self.client_ids.index(client_id) + 1

    def draw(self, client_id: int, purpose: str) -> np.random.Generator:
        """Return the generator of one client's secrets in this group."""
        return generator(self.run_seed, self.round_number, client_id, f"secure_sum/{self.model_type}/{purpose}")

    def _draw_secrets(self, client_id: int) -> Secrets:
        draw = self.draw(client_id, "secrets")
        return Secrets(draw_secret(draw), draw_secret(draw), draw_secret(draw))


def secure_group(
    client_ids: Collection[int], *, threshold: float, run_seed: int, round_number: int, model_type: str
) -> SecureGroup:
    """Form the group of a model type's clients in a round.

    Args:
        client_ids: Those of the cohort that are there when the round begins.
        threshold: Share of them that must stay to the end, above 0.5 and at most 1, rounded up.
        run_seed: The run's seed.
        round_number: The round.
        model_type: Its name.

    Raises:
        TooFewClients: If there are fewer than two: the sum of one client is its update.
    """
    ids = tuple(sorted(client_ids))
    if len(ids) < 2:
        told = f"secure sum of {model_type} in round {round_number}: {len(ids)} clients"
        raise TooFewClients(f"{told}, whose sum would hide nobody. Two are the least.")
    return SecureGroup(ids, math.ceil(threshold * len(ids) - 1e-9), run_seed, round_number, model_type)


def mask(group: SecureGroup, client_id: int, integers_P: np.ndarray) -> np.ndarray:
    """Return y_u, what one client sends, uint64, shape (P,), a new array; see the formula above.

    Args:
        group: The group.
        client_id: u.
        integers_P: q_u, int64, shape (P,). Not changed.
    """
    assert integers_P.dtype == np.int64 and integers_P.ndim == 1
    own = group.secrets[client_id]
    masked_P = integers_P.view(np.uint64).copy()
    others = [v for v in group.client_ids if v != client_id]
    masks = [(_pair_mask(group, own.mask_key, v), v > client_id) for v in others]
    _add_masks(masked_P, [(_own_mask(group, own.own_seed), True), *masks])
    return masked_P


def unmask(group: SecureGroup, total_P: np.ndarray, *, arrived: Collection[int], revealed: Mapping[int, bytes]) -> None:
    """Turn Σ y_u into Σ q_u over the clients whose vectors arrived, in place: what the server does at the end.

    Args:
        group: The group; the server uses its public keys alone.
        total_P: Σ y_u modulo 2^64, int64 or uint64, shape (P,). Changed in place.
        arrived: The clients that are in the sum.
        revealed: Client id -> its message with shares, from those who stayed to the end.

    Raises:
        TooFewClients: If fewer stayed than are needed.
        WireError: If a message is damaged or says something else than was asked for.
    """
    shares = read_revealed(group, revealed)
    masks: list[tuple[np.random.Generator, bool]] = []
    for u in group.client_ids:
        secret = recover(shares[u], threshold=group.num_needed)
        if u in arrived:
            masks.append((_own_mask(group, secret), False))
        else:  # the masks that the others put on for u are still there, with the sign that u itself would have used
            masks += [(_pair_mask(group, secret, v), v > u) for v in group.client_ids if v in arrived]
    _add_masks(total_P.view(np.uint64), masks)


def read_revealed(group: SecureGroup, revealed: Mapping[int, bytes]) -> dict[int, dict[int, int]]:
    """Return client id -> point of a holder -> share, from the messages of those who stayed."""
    shares: dict[int, dict[int, int]] = {u: {} for u in group.client_ids}
    for holder, message in revealed.items():
        sender, payload = decode(REVEALED, message, round_number=group.round_number)
        records = dict(REVEALED.record.iter_unpack(payload))
        if sender != holder or records.keys() != shares.keys():
            raise WireError(f"client {holder} did not reveal one share of every client of {group.model_type}")
        for u, share in records.items():
            shares[u][group.point_of(holder)] = from_bytes(share)
    return shares


def _own_mask(group: SecureGroup, own_seed: int) -> np.random.Generator:
    """Return PRG(b_u)."""
    return generator_of_secret(to_bytes(own_seed), f"own mask/{group.model_type}")


def _pair_mask(group: SecureGroup, mask_key: int, other: int) -> np.random.Generator:
    """Return PRG(s_uv), which u makes of its own key and v's public one, and v the other way round."""
    return generator_of_secret(agree(mask_key, group.public_keys[other][1]), f"pair mask/{group.model_type}")


def _add_masks(vector_P: np.ndarray, masks: Sequence[tuple[np.random.Generator, bool]]) -> None:
    """Add (True) or subtract (False) masks modulo 2^64, in place, tile by tile."""
    for start in range(0, len(vector_P), _TILE_ELEMENTS):
        tile_T = vector_P[start : start + _TILE_ELEMENTS]
        for draw, is_added in masks:
            mask_T = draw.integers(0, 2**64, size=len(tile_T), dtype=np.uint64)
            (np.add if is_added else np.subtract)(tile_T, mask_T, out=tile_T)
