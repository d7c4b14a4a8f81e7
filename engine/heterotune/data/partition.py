"""Who gets which documents: every document goes to exactly one client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterotune.config.data_options import PartitionConfig
from heterotune.data.facts import Codes, Facts
from heterotune.data.label_partitions import dirichlet, label_sets, model_type_holders, pathological_holders
from heterotune.data.size_partitions import clients_of_tasks, quantity
from heterotune.errors import DataError
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_NAMED_CLIENTS = 8


def partition(
    facts: Facts, num_clients: int, config: PartitionConfig, *, seed: int, type_of_client: Sequence[str] = ()
) -> tuple[np.ndarray, ...]:
    """Divide documents among clients; none is lost, none is given twice.

    - `natural` gives whole owners to clients, largest owner first, always to the client with the fewest characters so
      far; an owner is never split, so with fewer owners than clients some clients stay empty.
    - `iid` deals the shuffled documents.
    - `dirichlet` splits each label among the clients in shares drawn from Dirichlet(alpha), and draws again while a
      client has fewer than `min_documents` (at most 100 times).
    - `pathological` gives each client `labels_per_client` labels, and each label in equal parts to those who hold it.
    - `quantity` deals the shuffled documents in parts of skewed size, each at least `min_documents`.
    - `task` gives each client one task, clients in proportion to the tasks' documents, at least one each.
    - `model_type` divides each label among the clients of the model types that may hold it.

    Args:
        facts: What is known of the corpus's documents.
        num_clients: Clients of the whole fleet.
        config: Section `data.partition`.
        seed: The run's seed.
        type_of_client: Name of each client's model type, for `model_type`.

    Returns:
        For client 0, 1, ... the numbers of its documents in corpus order, int64.

    Raises:
        DataError: If labels, tasks or model types do not allow it, or a client has fewer than `min_documents`.

    Source: Dirichlet label skew as in Hsu et al. (2019), redrawn as in NIID-Bench (Li et al., 2022), as are k labels
    a client and Dirichlet sizes.
    """
    draw = generator(seed, NO_ROUND, NO_CLIENT, "partition")
    if config.by == "natural":
        owner_of = _natural(facts.keys, facts.num_characters, num_clients, draw)
    elif config.by == "iid":
        owner_of = _iid(len(facts), num_clients, draw)
    elif config.by == "quantity":
        owner_of = quantity(len(facts), num_clients, config, draw)
    elif config.by == "task":
        owner_of = _by_task(facts, num_clients, config, draw)
    else:
        owner_of = dirichlet(
            facts.strata, _holders(facts.strata, num_clients, config, draw, type_of_client), config, draw
        )
    order = np.argsort(owner_of, kind="stable")
    counts = np.bincount(owner_of, minlength=num_clients)
    _check_sizes(counts, config)
    return tuple(np.split(order, np.cumsum(counts)[:-1]))


def _natural(keys: Codes, num_characters: np.ndarray, num_clients: int, draw: np.random.Generator) -> np.ndarray:
    characters = np.zeros(len(keys.names), dtype=np.int64)
    np.add.at(characters, keys.of, num_characters)
    clients = draw.permutation(num_clients)  # which client gets the largest owner is a matter of the seed
    load = np.zeros(num_clients, dtype=np.int64)
    client_of_key = np.empty(len(keys.names), dtype=np.int64)
    for key in np.argsort(-characters, kind="stable"):  # of equal owners the first by name
        place = int(load.argmin())
        client_of_key[key] = clients[place]
        load[place] += characters[key]
    return client_of_key[keys.of]


def _iid(num_documents: int, num_clients: int, draw: np.random.Generator) -> np.ndarray:
    owner_of = np.empty(num_documents, dtype=np.int64)
    owner_of[draw.permutation(num_documents)] = np.arange(num_documents) % num_clients
    return owner_of


def _by_task(facts: Facts, num_clients: int, config: PartitionConfig, draw: np.random.Generator) -> np.ndarray:
    if num_clients < len(facts.tasks.names):
        return _natural(facts.tasks, facts.num_characters, num_clients, draw)
    sizes = np.bincount(facts.tasks.of, minlength=len(facts.tasks.names))
    return dirichlet(facts.tasks, clients_of_tasks(sizes, num_clients, draw), config, draw)


def _holders(
    strata: Codes, num_clients: int, config: PartitionConfig, draw: np.random.Generator, type_of_client: Sequence[str]
) -> list[np.ndarray]:
    """Return for each label the clients that may hold it."""
    if config.by == "pathological":
        return pathological_holders(strata, num_clients, config.labels_per_client, draw)
    if config.by == "model_type":
        return model_type_holders(label_sets(strata, config.holds, type_of_client), type_of_client)
    return [np.arange(num_clients)] * len(strata.names)


def _check_sizes(counts: np.ndarray, config: PartitionConfig) -> None:
    """Empty clients are left to `data.empty_client`; those with too few documents are a matter of the partition."""
    few = np.flatnonzero((counts > 0) & (counts < config.min_documents)).tolist()
    if few:
        names = ", ".join(map(str, few[:_NAMED_CLIENTS])) + (", ..." if len(few) > _NAMED_CLIENTS else "")
        raise DataError(
            f"data.partition.min_documents = {config.min_documents}: of {len(counts)} clients {len(few)} have fewer "
            f"documents ({names}). Lower it, use fewer clients, or another partition."
        )
