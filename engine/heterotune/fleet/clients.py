"""The clients of a fleet and the cohort of a round.

A fleet may have a million clients, so no object stands for one that does not take part: the fleet is a few arrays, and
a `Client` is made when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet.model_types import ModelType
from heterotune.randomness import NO_CLIENT, generator

ClientIds = range | np.ndarray
"""Ids in rising order: a range where it does, else int64."""


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


@dataclass(frozen=True, eq=False)
class Population:
    """Every client of a fleet, numbered in fleet order. Those without rows (policy `drop`) never take part.

    Attributes:
        rows: Rows of each client, int64 (N,), read only; one number that is repeated takes no memory (`broadcast_to`).
        bounds: First id of each model type, and after the last one the number of clients.
        members: For each model type the ids of its clients that have rows.
    """

    rows: np.ndarray
    bounds: tuple[int, ...]
    members: tuple[ClientIds, ...]

    @property
    def num_clients(self) -> int:
        """Clients that are defined, with rows or without."""
        return self.bounds[-1]

    @property
    def num_types(self) -> int:
        """Model types."""
        return len(self.members)

    @cached_property
    def num_members(self) -> int:
        """Clients that have rows, so that they may take part."""
        return sum(len(ids) for ids in self.members)

    @cached_property
    def total_rows(self) -> int:
        """Rows of all clients."""
        return int(self.rows.sum())

    def ids_of(self, model_type: int) -> ClientIds:
        """Return the ids of a model type's clients that have rows: in rising order, of known length, by place."""
        return self.members[model_type]

    def num_rows(self, client_id: int) -> int:
        """Return the rows of a client; 0 = it never takes part."""
        return int(self.rows[client_id])

    def rows_of(self, client_ids: ClientIds) -> np.ndarray:
        """Return the rows of some clients, int64, in the order of their ids."""
        return self.rows[client_ids.start : client_ids.stop] if isinstance(client_ids, range) else self.rows[client_ids]

    def model_type_of(self, client_id: int) -> int:
        """Return the index of a client's model type."""
        return bisect_right(self.bounds, client_id) - 1

    def client(self, client_id: int) -> Client:
        """Return one client; nothing of it is kept."""
        client_id = int(client_id)
        return Client(client_id, self.model_type_of(client_id), self.num_rows(client_id))

    def clients(self, client_ids: Iterable[int]) -> tuple[Client, ...]:
        """Return some clients, in the order of their ids in `client_ids`."""
        return tuple(self.client(client_id) for client_id in client_ids)

    def takes_part(self, client_id: int) -> bool:
        """Return whether there is such a client and it has rows."""
        return 0 <= client_id < self.num_clients and self.num_rows(client_id) > 0


def enlist_clients(model_types: Sequence[ModelType], num_rows: Sequence[int] | np.ndarray) -> Population:
    """Number the clients in fleet order.

    Args:
        model_types: The fleet.
        num_rows: Rows of each client; an array is not copied.
    """
    return make_population([model_type.num_clients for model_type in model_types], num_rows)


def make_population(num_clients: Sequence[int], num_rows: Sequence[int] | np.ndarray) -> Population:
    """Number clients in the order of their model types.

    Args:
        num_clients: Of each model type.
        num_rows: Rows of each client; an array is not copied.
    """
    bounds = tuple(accumulate(num_clients, initial=0))
    rows = np.asarray(num_rows, dtype=np.int64)
    assert len(rows) == bounds[-1], (len(rows), bounds)
    members = tuple(_with_rows(rows, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False))
    return Population(rows, bounds, members)


def sample_cohort(
    population: Population, cohort: CohortConfig, *, run_seed: int, round_number: int
) -> tuple[Client, ...]:
    """Draw the clients of a round: a fraction of each type, at least one, or a number that is split among the types."""
    counts = cohort_counts(population, cohort)
    return sample_counts(population, counts, run_seed=run_seed, round_number=round_number)


def sample_counts(
    population: Population, counts: Mapping[int, int], *, run_seed: int, round_number: int
) -> tuple[Client, ...]:
    """Draw the clients of a round, stratified by model type so that no type is absent by chance.

    Time and memory grow with the cohort, not with the fleet: small draws out of many are Floyd's (NumPy's `choice`).

    Args:
        population: The whole fleet.
        counts: Place of a model type -> clients to draw.
        run_seed: The run's seed.
        round_number: The round.

    Returns:
        The cohort in client order.
    """
    draw = generator(run_seed, round_number, NO_CLIENT, "cohort")
    drawn: list[int] = []
    for model_type, count in counts.items():
        members = population.ids_of(model_type)
        chosen = draw.choice(len(members), size=count, replace=False)
        drawn += [int(members[place]) for place in chosen.tolist()]
    return population.clients(sorted(drawn))


def cohort_counts(population: Population, cohort: CohortConfig) -> dict[int, int]:
    """Return how many clients of each model type that has any take part in a round; the same in every round."""
    sizes = {place: len(ids) for place, ids in enumerate(population.members) if len(ids)}
    if cohort.clients is None:
        fraction = cohort.fraction if cohort.fraction is not None else 1.0
        return {m: max(1, round(fraction * size)) for m, size in sizes.items()}
    wanted = min(cohort.clients, population.num_members)
    exact = {m: wanted * size / population.num_members for m, size in sizes.items()}
    counts = {m: int(share) for m, share in exact.items()}
    by_remainder = sorted(exact, key=lambda m: (counts[m] - exact[m], m))
    for m in by_remainder[: wanted - sum(counts.values())]:
        counts[m] += 1
    return counts


def draws_of_types(population: Population, cohort: CohortConfig) -> dict[int, tuple[int, int]]:
    """Return place of a model type -> its clients, and how many of them a round draws."""
    return {m: (len(population.ids_of(m)), count) for m, count in cohort_counts(population, cohort).items()}


def _with_rows(rows: np.ndarray, start: int, stop: int) -> ClientIds:
    """Return the clients from `start` to `stop` that have rows."""
    has_rows = rows[start:stop] > 0
    return range(start, stop) if has_rows.all() else start + np.flatnonzero(has_rows)
