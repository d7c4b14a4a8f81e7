"""How two simulated clients come to a secret that the server does not know, and send each other sealed bytes.

A simulation of the messages and their sizes, NOT cryptography: Diffie-Hellman in the integers modulo 2^255 - 19 has
keys as long as X25519's but can be broken, the sealing is a hash, and every secret comes from the run's seed.
"""

from __future__ import annotations

import hashlib

import numpy as np

from heterotune.errors import WireError

PRIME = 2**255 - 19
SECRET_BYTES = 32
TAG_BYTES = 16
_BASE = 2


def draw_secret(draw: np.random.Generator) -> int:
    """Draw a secret below `PRIME`."""
    return int.from_bytes(draw.bytes(SECRET_BYTES), "little") % PRIME


def public_key(secret: int) -> int:
    """Return 2^secret modulo `PRIME`: what a client tells everybody."""
    return pow(_BASE, secret, PRIME)


def agree(secret: int, others_public_key: int) -> bytes:
    """Return what both sides of a pair come to: SHA-256 of 2^(secret * other's secret).

    Raises:
        WireError: If the other's key is one that makes the result known to everybody.
    """
    if not 1 < others_public_key < PRIME - 1:
        raise WireError(f"a public key of a secure sum is {others_public_key}, not between 1 and 2^255 - 20")
    return hashlib.sha256(to_bytes(pow(others_public_key, secret, PRIME))).digest()


def seal(key: bytes, plain: bytes) -> bytes:
    """Hide bytes under a key that is used once, and add a tag of 16 bytes."""
    hidden = bytes(a ^ b for a, b in zip(plain, _stream(key, len(plain)), strict=True))
    return hidden + _tag(key, hidden)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        WireError: If key and bytes do not belong together.
    """
    hidden, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    if tag != _tag(key, hidden):
        raise WireError("a sealed message of a secure sum was changed, or is for somebody else")
    return bytes(a ^ b for a, b in zip(hidden, _stream(key, len(hidden)), strict=True))


def to_bytes(value: int) -> bytes:
    """Write a number below `PRIME` in 32 bytes."""
    return value.to_bytes(SECRET_BYTES, "little")


def from_bytes(data: bytes) -> int:
    """Read a number below `PRIME`.

    Raises:
        WireError: If it is not.
    """
    value = int.from_bytes(data, "little")
    if value >= PRIME:
        raise WireError("a number of a secure sum is not below 2^255 - 19")
    return value


def _stream(key: bytes, num_bytes: int) -> bytes:
    return hashlib.shake_256(b"stream" + key).digest(num_bytes)


def _tag(key: bytes, hidden: bytes) -> bytes:
    return hashlib.sha256(b"tag" + key + hidden).digest()[:TAG_BYTES]
