"""Who trains where in a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from heterotune.fleet.assignment import common_pauses, passes_in_lock_step
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.fleet.misbehaviour import Absence


@dataclass(frozen=True)
class RoundPlan:
    """The same on every rank. `by_rank` has what no earlier job finished, `chunks` has all.

    Under a virtual clock a round may take other updates than those of the clients that train in it. Then there are two
    plans: by the first one clients train, by the second, which has `arrived`, updates are added up.

    Attributes:
        round_number: The round.
        chunks: Clients that train, by model type.
        by_rank: Each rank's chunks.
        absent: Clients of the cohort that send nothing that is added up, and why.
        weighting: What a client weighs among others.
        done_share: Id of an absent client -> the share of its steps after which it drops out; 0 if it is not here.
        arrived: Clients whose updates the round takes, in client order; None = those that train.
        staleness: Client id -> factor on its weight, at most 1; 1 if it is not here.
    """

    round_number: int
    chunks: tuple[Chunk, ...]
    by_rank: tuple[tuple[Chunk, ...], ...]
    absent: Mapping[Client, Absence] = field(default_factory=dict)
    weighting: Literal["rows", "clients"] = "rows"
    done_share: Mapping[int, float] = field(default_factory=dict)
    arrived: tuple[Client, ...] | None = None
    staleness: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def trained(self) -> tuple[Client, ...]:
        """The clients whose updates are added up, in client order."""
        if self.arrived is not None:
            return self.arrived
        return tuple(sorted((c for chunk in self.chunks for c in chunk.clients), key=lambda c: c.client_id))

    @cached_property
    def cohort(self) -> tuple[Client, ...]:
        """The clients that were drawn, in client order."""
        return tuple(sorted((*self.trained, *self.absent), key=lambda client: client.client_id))

    @cached_property
    def num_drawn(self) -> Counter[int]:
        """Place of a model type -> its clients that were drawn."""
        return Counter(client.model_type for client in self.cohort)

    @cached_property
    def weight(self) -> dict[int, int]:
        """Place of a model type -> what its clients that train weigh together, as `weight_of`; in model-type order."""
        weight: Counter[int] = Counter()
        for client in self.trained:
            weight[client.model_type] += self.weight_of(client)
        return dict(sorted(weight.items()))

    def weight_of(self, client: Client) -> int:
        """Return what a client weighs among others: its rows, or 1."""
        return client.num_rows if self.weighting == "rows" else 1

    def weights_of(self, clients: Sequence[Client]) -> Tensor:
        """Return each client's share of all that its model type's clients weigh, float64, shape (K,).

        Old updates weigh less, and nobody else more for that: the sum is then shorter than a mean, as in FedBuff.
        """
        shares = [
            self.weight_of(client) / self.weight[client.model_type] * self.staleness.get(client.client_id, 1.0)
            for client in clients
        ]
        return torch.tensor(shares, dtype=torch.float64)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The model types of the cohort, in their order, whether anybody of them trains or not."""
        return tuple(sorted(self.num_drawn))

    def chunks_of(self, mpi_rank: int, place: int) -> list[Chunk]:
        """Return the chunks of a model type that a rank trains."""
        return [chunk for chunk in self.by_rank[mpi_rank] if chunk.model_type == place]

    def num_passes(self, mpi_ranks: tuple[int, ...], place: int) -> int:
        """Return the passes for a model type that each of the ranks that share a backbone makes."""
        return passes_in_lock_step([self.by_rank[mpi_rank] for mpi_rank in mpi_ranks], place)

    def is_pause(self, mpi_ranks: tuple[int, ...], place: int, num_passes: int) -> bool:
        """Return whether after so many passes no rank that shares a backbone is in the middle of a chunk."""
        return num_passes in common_pauses([self.by_rank[mpi_rank] for mpi_rank in mpi_ranks], place)
