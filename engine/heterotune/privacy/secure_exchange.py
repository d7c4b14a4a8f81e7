"""Who says what to whom in a secure sum: keys, shares of secrets, masked vectors, and what is revealed at the end.

    round 0   every client -> server   its public keys                   server -> every client   everybody's
    round 1   every client -> server   its secrets' shares, sealed       server -> every client   those sealed for it
    round 2   every client -> server   its masked vector y_u
    round 3   server -> who stayed     whose vectors arrived             who stayed -> server     a share of each client

All are real bytes, which the ledger counts. In the simulation the root plays rounds 0, 1 and 3 of all clients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from heterotune.errors import TooFewClients, WireError
from heterotune.privacy.key_agreement import agree, seal, to_bytes, unseal
from heterotune.privacy.secure_messages import KEYS, MASKED, REVEALED, SHARES, SURVIVORS, Kind, decode, encode
from heterotune.privacy.secure_sum import SecureGroup, mask, unmask
from heterotune.privacy.shamir import split


@dataclass(frozen=True)
class SentMessage:
    """One message between a client and the server, for the ledger."""

    client_id: int
    direction: Literal["down", "up"]
    kind: Kind
    data: bytes


def secure_sum(
    group: SecureGroup, integers: Mapping[int, np.ndarray], *, staying: Collection[int]
) -> tuple[np.ndarray, list[SentMessage]]:
    """Sum integers securely, all in one process: the protocol from end to end.

    Args:
        group: The clients that shared their secrets.
        integers: Client id -> q_u, int64, shape (P,), of those whose masked vectors arrive.
        staying: The clients that answer at the end.

    Returns:
        Σ q_u, int64, shape (P,), the same bits as a plain sum; and every message.

    Raises:
        TooFewClients: If too few arrive or stay.
    """
    total_P = np.zeros_like(next(iter(integers.values()))).view(np.uint64)
    sent: list[SentMessage] = []
    for client_id, integers_P in integers.items():
        message = masked_message(group, client_id, mask(group, client_id, integers_P))
        total_P += read_masked(group, message, num_elements=len(integers_P))
        sent.append(SentMessage(client_id, "up", MASKED, message))
    inboxes, begun = begin(group)
    sent += begun + finish(group, total_P, inboxes, arrived=integers.keys(), staying=staying)
    return total_P.view(np.int64), sent


def begin(group: SecureGroup) -> tuple[dict[int, bytes], list[SentMessage]]:
    """Play the rounds before the masked vectors. The root calls this.

    Returns:
        Client id -> the message with what the others sealed for it; and all messages of rounds 0 and 1.
    """
    keys = [SentMessage(u, direction, KEYS, data) for u in group.client_ids for direction, data in _keys(group, u)]
    shared = {u: share_secrets(group, u) for u in group.client_ids}
    inboxes = deliver_shares(group, shared)
    sent = [SentMessage(u, "up", SHARES, data) for u, data in shared.items()]
    return inboxes, [*keys, *sent, *(SentMessage(u, "down", SHARES, data) for u, data in inboxes.items())]


def finish(
    group: SecureGroup,
    total_P: np.ndarray,
    inboxes: Mapping[int, bytes],
    *,
    arrived: Collection[int],
    staying: Collection[int],
) -> list[SentMessage]:
    """Play the round after the masked vectors, and take the masks off their sum, in place. The root calls this.

    Args:
        group: The clients that shared their secrets.
        total_P: Σ y_u over those that arrived, int64 or uint64. Changed in place into Σ q_u.
        inboxes: From `begin`.
        arrived: The clients in the sum.
        staying: The clients that answer at the end.

    Returns:
        The messages of round 3.

    Raises:
        TooFewClients: If too few arrived or stay.
    """
    asked = {u: _survivors(group, u, arrived) for u in sorted(staying)}
    revealed = {u: reveal(group, u, arrived, inboxes[u]) for u in asked}
    unmask(group, total_P, arrived=arrived, revealed=revealed)
    return [
        *(SentMessage(u, "down", SURVIVORS, data) for u, data in asked.items()),
        *(SentMessage(u, "up", REVEALED, data) for u, data in revealed.items()),
    ]


def side_bytes(group: SecureGroup, client_id: int, *, arrived: Collection[int]) -> tuple[int, int]:
    """Return (bytes down, bytes up) of one client's messages beside its masked vector, before they are made.

    Args:
        group: The clients that shared their secrets.
        client_id: One of these.
        arrived: The clients in the sum, which stay to the end.
    """
    num_clients = len(group.client_ids)
    shares = SHARES.num_bytes(num_clients - 1)
    down, up = KEYS.num_bytes(num_clients) + shares, KEYS.num_bytes(1) + shares
    if client_id in arrived and len(arrived) >= group.num_needed:
        return down + SURVIVORS.num_bytes(len(arrived)), up + REVEALED.num_bytes(num_clients)
    return down, up


def masked_message(group: SecureGroup, client_id: int, masked_P: np.ndarray) -> bytes:
    """Return y_u as bytes."""
    payload = masked_P.astype("<u8", copy=False).tobytes()
    return encode(MASKED, payload, client_id=client_id, round_number=group.round_number)


def read_masked(group: SecureGroup, message: bytes, *, num_elements: int) -> np.ndarray:
    """Return y_u from bytes, uint64, shape (P,).

    Raises:
        WireError: If the message is damaged, or has another number of elements.
    """
    client_id, payload = decode(MASKED, message, round_number=group.round_number)
    masked_P = np.frombuffer(payload, "<u8")
    if len(masked_P) != num_elements:
        raise WireError(f"client {client_id} masked {len(masked_P)} elements where {num_elements} were expected")
    return masked_P.astype(np.uint64, copy=False)


def share_secrets(group: SecureGroup, client_id: int) -> bytes:
    """Return one client's message with the shares of its secrets, sealed for each other client."""
    shares = _shares(group, client_id)
    records = [
        SHARES.record.pack(v, seal(_sealing_key(group, client_id, v, client_id), shares[v]))
        for v in group.client_ids
        if v != client_id
    ]
    return encode(SHARES, b"".join(records), client_id=client_id, round_number=group.round_number)


def deliver_shares(group: SecureGroup, messages: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return client id -> the message in which the server passes on what the others sealed for it."""
    inboxes: dict[int, list[bytes]] = {client_id: [] for client_id in group.client_ids}
    for sender in group.client_ids:
        _, payload = decode(SHARES, messages[sender], round_number=group.round_number)
        for receiver, sealed in SHARES.record.iter_unpack(payload):
            inboxes[receiver].append(SHARES.record.pack(sender, sealed))
    return {
        receiver: encode(SHARES, b"".join(records), client_id=receiver, round_number=group.round_number)
        for receiver, records in inboxes.items()
    }


def reveal(group: SecureGroup, client_id: int, arrived: Collection[int], inbox: bytes) -> bytes:
    """Return what one client answers to the list of those whose vectors arrived: one share of each client's secrets.

    Args:
        group: The group.
        client_id: The client that answers.
        arrived: The clients in the sum.
        inbox: The message with what the others sealed for it.

    Raises:
        TooFewClients: If so few arrived that an honest client gives nothing away.
        WireError: If the inbox is damaged or not for this client.
    """
    if len(arrived) < group.num_needed:
        raise TooFewClients(f"secure sum: {len(arrived)} masked updates arrived, {group.num_needed} are needed")
    _, payload = decode(SHARES, inbox, round_number=group.round_number)
    held = {client_id: _shares(group, client_id)[client_id]}
    for sender, sealed in SHARES.record.iter_unpack(payload):
        held[sender] = unseal(_sealing_key(group, client_id, sender, sender), sealed)
    if held.keys() != set(group.client_ids):
        raise WireError(f"client {client_id} holds shares of {len(held)} clients, not of all of {group.model_type}")
    # One of the two, never both: with both, the server could take all masks off a single update.
    records = [REVEALED.record.pack(u, held[u][32:] if u in arrived else held[u][:32]) for u in group.client_ids]
    return encode(REVEALED, b"".join(records), client_id=client_id, round_number=group.round_number)


def _shares(group: SecureGroup, client_id: int) -> dict[int, bytes]:
    """Return holder -> a share of the client's key for masks and one of its own seed, 32 bytes each."""
    own, draw = group.secrets[client_id], group.draw(client_id, "shares")
    points = [group.point_of(v) for v in group.client_ids]
    of_key, of_seed = (
        split(secret, points=points, threshold=group.num_needed, draw=draw) for secret in (own.mask_key, own.own_seed)
    )
    return {v: to_bytes(of_key[p]) + to_bytes(of_seed[p]) for p, v in zip(points, group.client_ids, strict=True)}


def _sealing_key(group: SecureGroup, client_id: int, other: int, sender: int) -> bytes:
    """Return the key for what one of two clients seals for the other; both sides make the same one."""
    return agree(group.secrets[client_id].sealing_key, group.public_keys[other][0]) + sender.to_bytes(8, "little")


def _keys(group: SecureGroup, client_id: int) -> Iterator[tuple[Literal["down", "up"], bytes]]:
    """Yield round 0's message from a client and the one that it gets."""
    packed = {
        u: KEYS.record.pack(u, to_bytes(sealing), to_bytes(masks)) for u, (sealing, masks) in group.public_keys.items()
    }
    for direction, payload in (("up", packed[client_id]), ("down", b"".join(packed.values()))):
        yield direction, encode(KEYS, payload, client_id=client_id, round_number=group.round_number)


def _survivors(group: SecureGroup, client_id: int, arrived: Collection[int]) -> bytes:
    """Return the server's message that says whose vectors arrived."""
    payload = b"".join(SURVIVORS.record.pack(u) for u in sorted(arrived))
    return encode(SURVIVORS, payload, client_id=client_id, round_number=group.round_number)
