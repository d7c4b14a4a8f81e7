"""All that a plan depends on, read once: the run, its model types, the machines, their calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from heterotune.adapters.tables import adapter_layout
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.schema import RunConfig
from heterotune.fleet.assignment import assign_chunks
from heterotune.fleet.chunks import Chunk, form_chunks
from heterotune.fleet.clients import Client, Population, enlist_clients, sample_counts
from heterotune.fleet.model_types import ModelType
from heterotune.fleet.placement import Placement, dedicate, spread
from heterotune.planning.backbone_memory import Sharding, held_bytes, read_sharding
from heterotune.planning.calibration import Calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.compute import compute_seconds
from heterotune.planning.shapes import DTYPE_BYTES, TypeShape
from heterotune.randomness import NO_CLIENT, generator
from heterotune.virtual_time.dispatch import dispatch_of

ASSUMED_ROWS = 100
"""Training rows of a client where the run file does not limit them: the data is not read."""
ASSUMED_POOL_ROWS = 20_000
"""Most rows of the pool that clients draw from, for the same reason."""


@dataclass(frozen=True)
class Setting:
    """A run on a cluster.

    Attributes:
        config: The run.
        model_types: Its fleet.
        cluster: The machines.
        calibration: Their figures.
        returns_memory: Whether the job's environment makes glibc give freed memory back.
    """

    config: RunConfig
    model_types: tuple[ModelType, ...]
    cluster: Cluster
    calibration: Calibration
    returns_memory: bool = False

    @cached_property
    def shapes(self) -> tuple[TypeShape, ...]:
        """Every model type with its adapter under the run's strategy."""
        return tuple(
            TypeShape(each, adapter_layout(self.config.strategy, self.config, each, self.model_types))
            for each in self.model_types
        )

    @cached_property
    def dtype(self) -> str:
        """The backbones' dtype; "auto" is bf16 on GPUs, else fp32."""
        chosen = self.config.backbone.dtype
        return ("bf16" if self.cluster.has_gpus else "fp32") if chosen == "auto" else chosen

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a weight."""
        return DTYPE_BYTES[self.dtype]

    @property
    def sharding(self) -> Sharding:
        """How weights are held, for all that is alike on all ranks: sizes of groups are in `sharding_of`."""
        return self.sharding_of(0)

    def sharding_of(self, place: int) -> Sharding:
        """How a model type's weights are held."""
        return self._shardings[place]

    @cached_property
    def _shardings(self) -> tuple[Sharding, ...]:
        chosen, cluster, placement = self.config.backbone, self.cluster, self.placement
        ds_config = None if chosen.ds_config == NO_DEEPSPEED else read_ds_config(chosen.ds_config)
        nodes, found = cluster.node_of_rank, {}
        for ranks in set(placement.ranks_of_type):
            group = cluster.group_of(ranks[0], chosen.group, placement.crew_of_rank)
            found[ranks] = read_sharding(
                ds_config,
                group_size=len(group),
                group_nodes=len({nodes[mpi_rank] for mpi_rank in group}),
                on_gpus=cluster.has_gpus,
            )
        return tuple(found[ranks] for ranks in placement.ranks_of_type)

    @cached_property
    def placement(self) -> Placement:
        """Which ranks hold which model types; "auto" counts as spread until something was picked."""
        if self.config.placement != "dedicated":
            return spread(len(self.shapes), self.cluster.num_ranks)
        return dedicate(self.work_of_type, self.cluster.node_of_rank, whole_nodes=self.deals_nodes)

    @property
    def deals_nodes(self) -> bool:
        """Whether whole nodes are dedicated to model types, because the ranks of a node share a copy."""
        return self.config.backbone.ds_config != NO_DEEPSPEED and self.config.backbone.group == "node"

    @cached_property
    def work_of_type(self) -> tuple[float, ...]:
        """Seconds of computing of all clients of a round, one after the other, for each model type."""
        return tuple(
            self.cohort_counts[place] * self.steps * compute_seconds(shape, 1, self)
            for place, shape in enumerate(self.shapes)
        )

    def backbone_bytes_of(self, places: Iterable[int]) -> int:
        """Bytes of model types' weights on a rank that holds them, wherever it does."""
        quantize = self.config.backbone.quantize
        return sum(
            held_bytes(self.shapes[place], self.sharding_of(place), self.dtype_bytes, quantize) for place in places
        )

    @property
    def heap_factor(self) -> float:
        """Resident over live bytes of what training makes and frees on a CPU."""
        chosen = self.calibration
        return chosen.returning_heap_factor if self.returns_memory else chosen.heap_factor

    @property
    def rows_per_client(self) -> int:
        """Training rows of every client."""
        data = self.config.data
        return data.partition.rows_per_client or data.max_rows_per_client or ASSUMED_ROWS

    @property
    def num_table_rows(self) -> int:
        """Training rows of all clients together; those of a common pool once."""
        num_rows = self.config.num_clients * self.rows_per_client
        return min(num_rows, ASSUMED_POOL_ROWS) if self.config.data.partition.by == "drawn" else num_rows

    @property
    def tokens_per_client(self) -> int:
        """Positions of one client's rows in a pass; rows are taken for full."""
        return self.config.local.batch_size * self.config.data.max_tokens

    @property
    def steps(self) -> int:
        """Local steps of a client in a round."""
        local = self.config.local
        if local.epochs is None:
            return local.steps or 1
        return local.epochs * -(-self.rows_per_client // local.batch_size)

    @cached_property
    def population(self) -> Population:
        """The fleet, every client with as many rows."""
        return enlist_clients(self.model_types, np.broadcast_to(self.rows_per_client, self.config.num_clients))

    @cached_property
    def cohort_counts(self) -> Mapping[int, int]:
        """Place of a model type -> its clients that round 1 sends out; no round sends out more."""
        return dispatch_of(self.population, self.config.cohort, self.config.clock, ()).counts

    @cached_property
    def later_counts(self) -> Mapping[int, Fraction]:
        """Place of a model type -> its clients that a later round sends out: where some stay at work, the mean.

        Then as many clients go out as updates came, and those are taken to come from all clients alike.
        """
        population, buffer = self.population, self.config.clock.buffer
        if buffer is None:
            return {place: Fraction(count) for place, count in self.cohort_counts.items()}
        return {
            place: Fraction(buffer * len(population.ids_of(place)), population.num_members)
            for place in self.cohort_counts
        }

    def cohort_of(self, round_number: int) -> tuple[Client, ...]:
        """Return whom a round sends out if all are available and drawn alike; under a buffered clock an example."""
        population, seed, buffer = self.population, self.config.seed, self.config.clock.buffer
        if buffer is None or round_number == 1:
            return sample_counts(population, self.cohort_counts, run_seed=seed, round_number=round_number)
        draw = generator(seed, round_number, NO_CLIENT, "planned cohort")
        return population.clients(sorted(draw.choice(population.num_clients, size=buffer, replace=False).tolist()))

    def chunks_by_rank(self, chunk_clients: dict[int, int], *, round_number: int = 1) -> tuple[tuple[Chunk, ...], ...]:
        """Return which rank trains what in a round, as the simulation does before it has measured anything."""
        config = self.config
        cohort = self.cohort_of(round_number)
        num_steps = {client.client_id: self.steps for client in cohort}
        chunks = form_chunks(cohort, chunk_clients=chunk_clients, num_steps=num_steps)
        costs = {place: float(each.num_parameters) for place, each in enumerate(self.model_types)}
        lock_step = self.sharding.is_sharded and config.backbone.group != "rank"
        return assign_chunks(chunks, self.placement, seconds_per_pass=costs, in_lock_step=lock_step)
