"""The one place that makes random generators: counter-based, so a draw depends on nothing but what it is for."""

from __future__ import annotations

import hashlib

import numpy as np

NO_CLIENT = -1
NO_ROUND = -1
_PHILOX_ROUNDS = 10
_PHILOX_FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_PHILOX_BUMPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))


def generator(run_seed: int, round_number: int, client_id: int, purpose: str) -> np.random.Generator:
    """Return the generator for one purpose of one client in one round.

    Args:
        run_seed: The run's seed.
        round_number: Federation round, or `NO_ROUND` for what happens once per run.
        client_id: Client, or `NO_CLIENT` for what concerns the whole fleet.
        purpose: A word that no other draw of the same client and round uses, e.g. "batches".

    Returns:
        A NumPy generator on Philox, keyed by SHA-256 of the four values: no state is shared between any two of them.
    """
    key = np.frombuffer(_key_bytes(run_seed, round_number, client_id, purpose), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def first_draws(run_seed: int, round_number: int, client_ids: np.ndarray, purpose: str) -> np.ndarray:
    """Return the first `random()` of each client's `generator`: for a million clients 2 seconds, not 18 (2026-11-21).

    Args:
        run_seed: The run's seed.
        round_number: As for `generator`.
        client_ids: The clients, int64.
        purpose: As for `generator`.

    Returns:
        Numbers from 0 to below 1, float64, in the order of the clients; new memory.

    Source: Philox4x64-10 (Salmon et al., SC 2011), its first block; NumPy's counter is 1 there.
    """
    keys = b"".join(_key_bytes(run_seed, round_number, client_id, purpose) for client_id in client_ids.tolist())
    key_0, key_1 = np.frombuffer(keys, dtype=np.uint64).reshape(-1, 2).T
    block = [np.full(len(client_ids), number, dtype=np.uint64) for number in (1, 0, 0, 0)]
    for _ in range(_PHILOX_ROUNDS):
        (high_0, low_0), (high_1, low_1) = (
            _product(block[0], _PHILOX_FACTORS[0]),
            _product(block[2], _PHILOX_FACTORS[1]),
        )
        block = [high_1 ^ block[1] ^ key_0, low_1, high_0 ^ block[3] ^ key_1, low_0]
        key_0, key_1 = key_0 + _PHILOX_BUMPS[0], key_1 + _PHILOX_BUMPS[1]
    return (block[0] >> np.uint64(11)) * 2.0**-53


def generator_of_secret(secret: bytes, purpose: str) -> np.random.Generator:
    """Return the generator that everybody who knows a secret can make, for simulated secure aggregation.

    Args:
        secret: What two clients agreed on, or one client's own; drawn from `generator` in the end.
        purpose: A word that no other draw from the same secret uses.

    Returns:
        A NumPy generator on Philox, keyed by SHA-256 of both.
    """
    key = np.frombuffer(hashlib.sha256(purpose.encode() + b"\x1f" + secret).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _key_bytes(run_seed: int, round_number: int, client_id: int, purpose: str) -> bytes:
    """Return the 16 bytes of a generator's key."""
    name = f"{run_seed}\x1f{round_number}\x1f{client_id}\x1f{purpose}".encode()
    return hashlib.sha256(name).digest()[:16]


def _product(values: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the high and the low 64 bits of products of 64 bits each, by halves of 32 bits."""
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    high, low = values >> half, values & mask
    by_high, by_low = np.uint64(factor >> 32), np.uint64(factor % 2**32)
    lows, cross = low * by_low, high * by_low
    middle = (lows >> half) + (cross & mask) + low * by_high
    return high * by_high + (cross >> half) + (middle >> half), values * np.uint64(factor)
