"""The one place that makes random generators: counter-based, so a draw depends on nothing but what it is for."""

from __future__ import annotations

import hashlib

import numpy as np

NO_CLIENT = -1
NO_ROUND = -1


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
    name = f"{run_seed}\x1f{round_number}\x1f{client_id}\x1f{purpose}".encode()
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


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
