"""Who gets which documents: every document goes to exactly one client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from heterotune.config.schema import PartitionConfig
from heterotune.data.corpora import Document
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_DIRICHLET_ATTEMPTS = 100


def partition(
    documents: Sequence[Document], num_clients: int, config: PartitionConfig, *, seed: int
) -> tuple[tuple[Document, ...], ...]:
    """Divide documents among clients; none is lost, none is given twice.

    `natural` gives whole owners to clients, largest owner first, always to the client with the fewest characters so
    far; an owner is never split, so with fewer owners than clients some clients stay empty. `iid` deals the shuffled
    documents. `dirichlet` splits each label among the clients in shares drawn from Dirichlet(alpha), and draws again
    while a client is empty (at most 100 times).

    Args:
        documents: The corpus.
        num_clients: Clients of the whole fleet.
        config: Section `data.partition`.
        seed: The run's seed.

    Returns:
        The documents of client 0, 1, ... in corpus order.

    Source: Dirichlet label skew as in Hsu et al. (2019), redrawn as in NIID-Bench (Li et al., 2022).
    """
    draw = generator(seed, NO_ROUND, NO_CLIENT, "partition")
    if config.by == "natural":
        owner_of = _natural(documents, num_clients, draw)
    elif config.by == "iid":
        owner_of = _iid(len(documents), num_clients, draw)
    else:
        owner_of = _dirichlet(documents, num_clients, config.alpha, draw)
    parts: list[list[Document]] = [[] for _ in range(num_clients)]
    for document, client_id in zip(documents, owner_of.tolist(), strict=True):
        parts[client_id].append(document)
    return tuple(tuple(part) for part in parts)


def _natural(documents: Sequence[Document], num_clients: int, draw: np.random.Generator) -> np.ndarray:
    characters: dict[str, int] = defaultdict(int)
    for document in documents:
        characters[document.key] += document.num_characters
    clients = draw.permutation(num_clients)  # which client gets the largest owner is a matter of the seed
    load = np.zeros(num_clients, dtype=np.int64)
    client_of_key = {}
    for key in sorted(characters, key=lambda key: (-characters[key], key)):
        place = int(load.argmin())
        client_of_key[key] = clients[place]
        load[place] += characters[key]
    return np.array([client_of_key[document.key] for document in documents], dtype=np.int64)


def _iid(num_documents: int, num_clients: int, draw: np.random.Generator) -> np.ndarray:
    owner_of = np.empty(num_documents, dtype=np.int64)
    owner_of[draw.permutation(num_documents)] = np.arange(num_documents) % num_clients
    return owner_of


def _dirichlet(documents: Sequence[Document], num_clients: int, alpha: float, draw: np.random.Generator) -> np.ndarray:
    members: dict[str, list[int]] = defaultdict(list)
    for i, document in enumerate(documents):
        members[document.label or ""].append(i)
    for _ in range(_DIRICHLET_ATTEMPTS):
        owner_of = np.empty(len(documents), dtype=np.int64)
        for label in sorted(members):
            shuffled = draw.permutation(np.array(members[label]))
            shares = draw.dirichlet(np.full(num_clients, alpha))
            ends = np.rint(np.cumsum(shares)[:-1] * len(shuffled)).astype(np.int64)
            counts = np.diff(ends, prepend=0, append=len(shuffled))
            owner_of[shuffled] = np.repeat(np.arange(num_clients), counts)
        if len(np.unique(owner_of)) == num_clients or len(documents) < num_clients:
            break
    return owner_of
