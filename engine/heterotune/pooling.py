"""Training in one place on a federation's data: one client for each model type, with the rows of all its clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from heterotune.data.rows import Rows
from heterotune.federation import Federation
from heterotune.fleet.clients import Client, Population


@dataclass(frozen=True, eq=False)
class PooledRows:
    """The rows of the clients of `pool_clients`: of `ClientRows` what training asks for.

    Attributes:
        of_client: By their ids.
    """

    of_client: Mapping[int, Rows]

    def __getitem__(self, client_id: int) -> Rows:
        return self.of_client[client_id]

    def held(self) -> tuple[Rows, ...]:
        """Return the rows of all of them."""
        return tuple(self.of_client.values())


def pool_clients(population: Population) -> dict[int, Client]:
    """Return place of a model type -> the client that stands for all of its clients, with the first one's number."""
    return {
        place: Client(int(ids[0]), place, int(population.rows_of(ids).sum()))
        for place, ids in enumerate(population.members)
        if len(ids)
    }


def pool_data(federation: Federation) -> Federation:
    """Return a federation of the clients of `pool_clients`, with all rows of their types; no other client has any."""
    population, rows_of = federation.population, federation.data.train
    pooled = pool_clients(population).items()
    train = {client.client_id: rows_of.pooled(population.ids_of(place)) for place, client in pooled}
    return replace(federation, data=replace(federation.data, train=PooledRows(train)))


def pool_cohort(
    cohort: Sequence[Client], num_steps: Mapping[int, int], pooled: Mapping[int, Client]
) -> tuple[tuple[Client, ...], dict[int, int]]:
    """Return who trains instead of a cohort, in client order, and how many steps: those of the cohort's together."""
    steps: Counter[int] = Counter()
    for client in cohort:
        steps[pooled[client.model_type].client_id] += num_steps[client.client_id]
    clients = sorted({pooled[client.model_type] for client in cohort}, key=lambda client: client.client_id)
    return tuple(clients), dict(steps)
