"""Partitions by label: who may hold a label, and in what shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from heterotune.config.data_options import PartitionConfig
from heterotune.config.nearest import suggestion
from heterotune.data.facts import Codes
from heterotune.errors import DataError

_ATTEMPTS = 100
_MOST_SUGGESTIONS = 20


def dirichlet(
    strata: Codes, holders: Sequence[np.ndarray], config: PartitionConfig, draw: np.random.Generator
) -> np.ndarray:
    """Divide each label among the clients that may hold it, in drawn or equal shares.

    Args:
        strata: The label of each document.
        holders: For each label the clients that may hold it, int64, at least one.
        config: `by`, `within` and `alpha` say which shares; `min_documents` when to draw again.
        draw: The partition's generator.

    Returns:
        The client of each document, int64.
    """
    members = strata.members()
    num_documents, clients = len(strata.of), np.unique(np.concatenate([np.empty(0, np.int64), *holders]))
    is_equal = config.by == "pathological" or (config.by != "dirichlet" and config.within == "iid")
    for _ in range(1 if is_equal else _ATTEMPTS):
        owner_of = np.empty(num_documents, dtype=np.int64)
        for label_members, label_holders in zip(members, holders, strict=True):
            shuffled = draw.permutation(label_members)
            owner_of[shuffled] = np.repeat(
                label_holders, _counts(len(shuffled), len(label_holders), config, is_equal, draw)
            )
        counts = np.bincount(owner_of)[clients[clients < owner_of.max(initial=-1) + 1]]
        is_enough = len(counts) == len(clients) and counts.min(initial=config.min_documents) >= config.min_documents
        if is_enough or num_documents < config.min_documents * len(clients):
            break
    return owner_of


def _counts(
    num_documents: int, num_holders: int, config: PartitionConfig, is_equal: bool, draw: np.random.Generator
) -> np.ndarray:
    """Return how many of a label's documents each holder gets."""
    if is_equal:  # who gets one more is drawn, lest it be the same clients for every label
        whole, rest = divmod(num_documents, num_holders)
        return whole + (draw.permutation(num_holders) < rest)
    shares = draw.dirichlet(np.full(num_holders, config.alpha))
    ends = np.rint(np.cumsum(shares)[:-1] * num_documents).astype(np.int64)
    return np.diff(ends, prepend=0, append=num_documents)


def pathological_holders(
    strata: Codes, num_clients: int, labels_per_client: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """Give each client in turn the labels that the fewest clients hold so far, ties at random.

    Raises:
        DataError: If there are fewer labels than a client needs, or more than all clients can hold.
    """
    num_labels = len(strata.names)
    setting = f"data.partition.labels_per_client = {labels_per_client}"
    if labels_per_client > num_labels:
        raise DataError(f"{setting} is more than the corpus's {num_labels} labels. Lower it.")
    if labels_per_client * num_clients < num_labels:
        raise DataError(
            f"{setting}: {num_clients} clients hold {labels_per_client * num_clients} labels at most, fewer than the "
            f"corpus's {num_labels}, and no document may be lost. Raise it, or use more clients."
        )
    num_holders = np.zeros(num_labels, dtype=np.int64)
    holders: list[list[int]] = [[] for _ in range(num_labels)]
    for client_id in draw.permutation(num_clients).tolist():
        for label in np.lexsort((draw.permutation(num_labels), num_holders))[:labels_per_client].tolist():
            holders[label].append(client_id)
            num_holders[label] += 1
    return [np.array(sorted(clients), dtype=np.int64) for clients in holders]


def label_sets(strata: Codes, holds: Mapping[str, Sequence[str]], type_of_client: Sequence[str]) -> list[set[str]]:
    """Return for each label the model types that may hold it.

    Raises:
        DataError: If `holds` names an unknown model type or label, or a label is left to nobody; all are told.
    """
    types, labels = sorted(set(type_of_client)), set(strata.names)
    problems = [
        f"data.partition.holds.{name} is no model type of the fleet. {suggestion(name, types)}"
        for name in list(holds)[:_MOST_SUGGESTIONS]
        if name not in types
    ]
    unknown = [(name, label) for name, own in holds.items() for label in own if label not in labels]
    problems += [
        f"data.partition.holds.{name}: {label[:60]!r} is no label of the corpus. {suggestion(label, labels)}"
        for name, label in unknown[:_MOST_SUGGESTIONS]
    ]
    may_hold = [{name for name in types if name not in holds or label in holds[name]} for label in strata.names]
    nobodys = [label for label, names in zip(strata.names, may_hold, strict=True) if not names]
    if nobodys:
        told = ", ".join(label[:60] for label in nobodys[:8]) + (", ..." if len(nobodys) > 8 else "")
        problems.append(
            f"data.partition.holds leaves {told} to no model type, and no document may be lost. Give them to one."
        )
    if problems:
        raise DataError("\n".join(problems))
    return may_hold


def model_type_holders(may_hold: Sequence[set[str]], type_of_client: Sequence[str]) -> list[np.ndarray]:
    """Return for each label the clients whose model type may hold it."""
    return [np.flatnonzero([name in names for name in type_of_client]) for names in may_hold]
