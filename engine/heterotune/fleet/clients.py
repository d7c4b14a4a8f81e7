"""The clients of a fleet and the cohort of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet.model_types import ModelType
from heterotune.randomness import NO_CLIENT, generator


@dataclass(frozen=True)
class Client:
    """A simulated participant.

    Attributes:
        client_id: Its number in the fleet, from 0.
        model_type: Index of its model type.
        num_rows: Rows it trains on; its weight in every average.
    """

    client_id: int
    model_type: int
    num_rows: int


def enlist_clients(model_types: Sequence[ModelType], num_rows: Sequence[int]) -> tuple[Client, ...]:
    """Number the clients in fleet order; those without rows (policy `drop`) keep their number but never take part."""
    owners = [model_type.index for model_type in model_types for _ in range(model_type.num_clients)]
    return tuple(
        Client(client_id, owner, rows)
        for client_id, (owner, rows) in enumerate(zip(owners, num_rows, strict=True))
        if rows > 0
    )


def clients_of_types(clients: Sequence[Client], num_types: int) -> list[tuple[int, ...]]:
    """Return the ids of each model type's clients, in client order."""
    return [tuple(client.client_id for client in clients if client.model_type == place) for place in range(num_types)]


def sample_cohort(
    clients: Sequence[Client], cohort: CohortConfig, *, run_seed: int, round_number: int
) -> tuple[Client, ...]:
    """Draw the clients of a round, stratified by model type so that no type is absent by chance.

    Args:
        clients: The whole fleet, in client order.
        cohort: A fraction of each type (at least one client), or a number that is split among the types.
        run_seed: The run's seed.
        round_number: The round.

    Returns:
        The cohort in client order.
    """
    by_type = _by_type(clients)
    draw = generator(run_seed, round_number, NO_CLIENT, "cohort")
    cohort_clients: list[Client] = []
    for model_type, count in _counts(by_type, cohort).items():
        chosen = draw.choice(len(by_type[model_type]), size=count, replace=False)
        cohort_clients += [by_type[model_type][place] for place in chosen]
    return tuple(sorted(cohort_clients, key=lambda client: client.client_id))


def cohort_counts(clients: Sequence[Client], cohort: CohortConfig) -> dict[int, int]:
    """Return how many clients of each model type take part in a round; the same in every round."""
    return _counts(_by_type(clients), cohort)


def populations(clients: Sequence[Client], cohort: CohortConfig) -> dict[int, tuple[int, int]]:
    """Return place of a model type -> its clients, and how many of them a round draws."""
    by_type = _by_type(clients)
    return {place: (len(by_type[place]), count) for place, count in _counts(by_type, cohort).items()}


def _by_type(clients: Sequence[Client]) -> dict[int, list[Client]]:
    """Return the clients of each model type that has any."""
    by_type: dict[int, list[Client]] = {}
    for client in clients:
        by_type.setdefault(client.model_type, []).append(client)
    return by_type


def _counts(by_type: dict[int, list[Client]], cohort: CohortConfig) -> dict[int, int]:
    """Return how many clients of each type take part."""
    if cohort.clients is None:
        fraction = cohort.fraction if cohort.fraction is not None else 1.0
        return {m: max(1, round(fraction * len(members))) for m, members in by_type.items()}
    total = sum(len(members) for members in by_type.values())
    wanted = min(cohort.clients, total)
    exact = {m: wanted * len(members) / total for m, members in by_type.items()}
    counts = {m: int(share) for m, share in exact.items()}
    by_remainder = sorted(exact, key=lambda m: (counts[m] - exact[m], m))
    for m in by_remainder[: wanted - sum(counts.values())]:
        counts[m] += 1
    return counts
