"""All that a plan depends on, read once: the run, its model types, the machines, their calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from heterotune.adapters.tables import adapter_layout
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.schema import RunConfig
from heterotune.fleet.assignment import assign_chunks
from heterotune.fleet.chunks import Chunk, form_chunks
from heterotune.fleet.clients import Population, cohort_counts, enlist_clients, sample_cohort
from heterotune.fleet.model_types import ModelType
from heterotune.planning.backbone_memory import Sharding, held_bytes, read_sharding
from heterotune.planning.calibration import Calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.shapes import DTYPE_BYTES, TypeShape

ASSUMED_ROWS = 100
"""Training rows of a client where the run file does not limit them: the data is not read."""


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

    @cached_property
    def sharding(self) -> Sharding:
        """How weights are held."""
        chosen, cluster = self.config.backbone, self.cluster
        ds_config = None if chosen.ds_config == NO_DEEPSPEED else read_ds_config(chosen.ds_config)
        return read_sharding(
            ds_config,
            group_size=cluster.group_size(chosen.group),
            group_nodes=cluster.group_nodes(chosen.group),
            on_gpus=cluster.has_gpus,
        )

    @cached_property
    def backbone_bytes(self) -> int:
        """Bytes of all backbones' weights that one rank holds, wherever it does."""
        quantize = self.config.backbone.quantize
        return sum(held_bytes(shape, self.sharding, self.dtype_bytes, quantize) for shape in self.shapes)

    @property
    def heap_factor(self) -> float:
        """Resident over live bytes of what training makes and frees on a CPU."""
        chosen = self.calibration
        return chosen.returning_heap_factor if self.returns_memory else chosen.heap_factor

    @property
    def rows_per_client(self) -> int:
        """Training rows of every client."""
        return self.config.data.max_rows_per_client or ASSUMED_ROWS

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
    def cohort_counts(self) -> dict[int, int]:
        """Place of a model type -> its clients in a round; the same in every round."""
        return cohort_counts(self.population, self.config.cohort)

    def chunks_by_rank(self, chunk_clients: dict[int, int]) -> tuple[tuple[Chunk, ...], ...]:
        """Return which rank trains what in round 1, as the simulation does before it has measured anything."""
        config = self.config
        cohort = sample_cohort(self.population, config.cohort, run_seed=config.seed, round_number=1)
        num_steps = {client.client_id: self.steps for client in cohort}
        chunks = form_chunks(cohort, chunk_clients=chunk_clients, num_steps=num_steps)
        costs = {place: float(each.num_parameters) for place, each in enumerate(self.model_types)}
        lock_step = self.sharding.is_sharded and config.backbone.group != "rank"
        return assign_chunks(chunks, self.cluster.num_ranks, seconds_per_pass=costs, in_lock_step=lock_step)
