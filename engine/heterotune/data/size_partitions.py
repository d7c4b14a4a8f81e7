"""Partitions by size: clients of skewed size, and how many clients work on a task."""

from __future__ import annotations

import numpy as np

from heterotune.config.data_options import PartitionConfig


def quantity(num_documents: int, num_clients: int, config: PartitionConfig, draw: np.random.Generator) -> np.ndarray:
    """Deal shuffled documents in parts of skewed size: `min_documents` each if there are enough, the rest by shares.

    Args:
        num_documents: Documents of the corpus.
        num_clients: Clients of the fleet.
        config: `sizes` with `alpha` or `exponent`, and `min_documents`.
        draw: The partition's generator.

    Returns:
        The client of each document, int64.
    """
    if config.sizes == "dirichlet":
        shares = draw.dirichlet(np.full(num_clients, config.alpha))
    else:
        falling = np.arange(1, num_clients + 1) ** -float(config.exponent)
        shares = draw.permutation(falling / falling.sum())
    at_least = min(config.min_documents, num_documents // num_clients)
    ends = np.rint(np.cumsum(shares)[:-1] * (num_documents - at_least * num_clients)).astype(np.int64)
    counts = at_least + np.diff(ends, prepend=0, append=num_documents - at_least * num_clients)
    owner_of = np.empty(num_documents, dtype=np.int64)
    owner_of[draw.permutation(num_documents)] = np.repeat(np.arange(num_clients), counts)
    return owner_of


def clients_of_tasks(sizes: np.ndarray, num_clients: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Give each task one client, and each further client to the task with the most documents per client.

    Args:
        sizes: Documents of each task, int64.
        num_clients: At least the number of tasks.
        draw: Decides which clients.

    Returns:
        For each task its clients, int64, sorted.
    """
    num_holders = np.ones(len(sizes), dtype=np.int64)
    for _ in range(num_clients - len(sizes)):
        num_holders[int((sizes / num_holders).argmax())] += 1
    clients = draw.permutation(num_clients)
    return [np.sort(own) for own in np.split(clients, np.cumsum(num_holders)[:-1])]
