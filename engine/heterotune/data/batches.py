"""Which rows a client trains on, step by step."""

from __future__ import annotations

import numpy as np

from heterotune.data.tokenizing import Rows
from heterotune.randomness import generator


def batches(rows: Rows, *, seed: int, round_number: int, client_id: int, batch_size: int, num_steps: int) -> np.ndarray:
    """Draw a client's batches of one round: a fresh permutation of its rows for every epoch, one after the other.

    A batch may reach over the end of an epoch; a client with fewer rows than `batch_size` sees rows twice in a batch.

    Args:
        rows: The client's training rows, at least one.
        seed: The run's seed.
        round_number: The round.
        client_id: The client.
        batch_size: Rows per step.
        num_steps: Steps.

    Returns:
        Row numbers, int64, shape (num_steps, batch_size). They depend on nothing but the arguments.
    """
    draw = generator(seed, round_number, client_id, "batches")
    num_epochs = -(-num_steps * batch_size // len(rows))
    order = np.concatenate([np.empty(0, np.int64), *(draw.permutation(len(rows)) for _ in range(num_epochs))])
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)
