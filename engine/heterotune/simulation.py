"""The round loop: one strategy on one federation. Read it beside the picture in the README.

sample cohort -> chunks -> train (one pass per step for a whole chunk) -> updates over the wire into exact sums
-> gather to the root -> combine (CMGA, DeMA) -> broadcast -> evaluate
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, stack_clients
from heterotune.aggregation.exact import ExactSum
from heterotune.client_store import ClientStore
from heterotune.collective.channel import ROOT
from heterotune.downlink import Downlink
from heterotune.evaluation import gather_scores, heldout_batches, mean_loss, score_model_type
from heterotune.federation import Federation
from heterotune.fleet.assignment import assign_chunks, passes_in_lock_step
from heterotune.fleet.chunks import Chunk, form_chunks
from heterotune.fleet.clients import sample_cohort
from heterotune.head_frames import align_heads, gradient_cosines
from heterotune.journal import Journal
from heterotune.randomness import NO_CLIENT
from heterotune.server import GlobalAdapters
from heterotune.strategies.strategy import Strategy, TypeUpdate
from heterotune.training.chunk_batches import PreparedChunk, prepare_chunk, steps_of
from heterotune.training.local import TrainedChunk, idle_training_pass, train_chunk
from heterotune.training.prefetch import prefetch
from heterotune.uplink import send_updates


@dataclass(frozen=True)
class RoundPlan:
    """Who trains where in a round; the same on every rank."""

    round_number: int
    chunks: tuple[Chunk, ...]
    by_rank: tuple[tuple[Chunk, ...], ...]

    @cached_property
    def num_rows(self) -> dict[int, int]:
        """Place of a model type in the cohort -> N_m, the rows of its clients; in model-type order."""
        rows: dict[int, int] = {}
        for chunk in self.chunks:
            rows[chunk.model_type] = rows.get(chunk.model_type, 0) + sum(client.num_rows for client in chunk.clients)
        return rows

    @cached_property
    def num_clients(self) -> dict[int, int]:
        """Place of a model type in the cohort -> its clients."""
        counts: dict[int, int] = {}
        for chunk in self.chunks:
            counts[chunk.model_type] = counts.get(chunk.model_type, 0) + len(chunk.clients)
        return counts


class Simulation:
    """A strategy's federation, round by round. Every rank makes one and calls the same methods in the same order."""

    def __init__(self, federation: Federation, strategy: Strategy, journal: Journal) -> None:
        """Attach the strategy's adapters to the backbones and give all ranks the root's first values.

        Args:
            federation: Fleet, data, backbones and channel.
            strategy: The method.
            journal: Where numbers go.
        """
        self.federation, self.strategy, self.journal = federation, strategy, journal
        self.config, self.channel = federation.config, federation.channel
        self.chunk_clients: dict[
            int, int
        ] = {}  # place of a model type -> clients per chunk; set before the first round
        self.layouts = [strategy.layout(model_type, federation.model_types) for model_type in federation.model_types]
        self.attached = [
            AttachedAdapter(layout, backbone.llama)
            for layout, backbone in zip(self.layouts, federation.backbones, strict=True)
        ]
        self.adapters = GlobalAdapters(self.layouts, run_seed=self.config.seed)
        self.store = ClientStore(journal.folder / "clients", run_seed=self.config.seed)
        self.heldout = heldout_batches(federation.data.heldout, self.config.evaluate.batch_size, federation.device)
        self.pass_seconds = [float(model_type.num_parameters) for model_type in federation.model_types]
        self.frames = [None] * len(self.layouts)
        if self.layouts[0].head is not None:
            self._align()
        self.downlink = Downlink(self.layouts, self.frames)
        self.broadcast()

    def close(self) -> None:
        """Take the adapters off the backbones."""
        for attached in self.attached:
            attached.detach()

    def run(self) -> None:
        """Run every round."""
        for round_number in range(1, self.config.rounds + 1):
            self.run_round(round_number)

    def run_round(self, round_number: int) -> None:
        """Run one federation round. Every rank must call this."""
        started = time.perf_counter()
        plan = self.plan(round_number)
        sums = self.train(plan)
        updates = self.gather(plan, sums)
        if updates is not None:
            self.combine(round_number, updates)
        self.broadcast()
        if round_number % self.config.evaluate.every_rounds == 0 or round_number == self.config.rounds:
            self.evaluate(round_number)
        self.pass_seconds = self.journal.end_round(round_number, time.perf_counter() - started, self.pass_seconds)

    def plan(self, round_number: int) -> RoundPlan:
        """Sample the cohort, cut it into chunks and hand them to ranks; every rank comes to the same plan."""
        federation, config = self.federation, self.config
        cohort = sample_cohort(federation.clients, config.cohort, run_seed=config.seed, round_number=round_number)
        num_steps = {client.client_id: steps_of(client.num_rows, config.local) for client in cohort}
        chunks = form_chunks(cohort, chunk_clients=self.chunk_clients, num_steps=num_steps)
        by_rank = assign_chunks(
            chunks,
            self.channel.num_ranks,
            seconds_per_pass=dict(enumerate(self.pass_seconds)),
            in_lock_step=federation.backbones[0].in_lock_step,
        )
        return RoundPlan(round_number, chunks, by_rank)

    def train(self, plan: RoundPlan) -> dict[int, ExactSum]:
        """Train this rank's chunks; every update goes over the wire into the exact sum of its model type.

        Returns:
            Place of a model type in the cohort -> the sum over this rank's clients.
        """
        sums = {place: ExactSum(self.layouts[place].num_travelling) for place in plan.num_rows}
        for place in range(len(self.layouts)):
            mine = [chunk for chunk in plan.by_rank[self.channel.mpi_rank] if chunk.model_type == place]
            for chunk, prepared in prefetch(mine, partial(self._prepare, plan.round_number)):
                with self.journal.phase("train", plan.round_number):
                    trained = self._train_chunk(chunk, prepared)
                with self.journal.phase("encode"):
                    self._send(plan, trained, sums[place])
            self._wait_in_lock_step(plan, place, num_passes=sum(chunk.num_passes for chunk in mine))
        return sums

    def gather(self, plan: RoundPlan, sums: Mapping[int, ExactSum]) -> list[TypeUpdate] | None:
        """Add up all ranks' sums at the root; returns each model type's mean update there, None elsewhere."""
        with self.journal.phase("gather"):
            for exact in sums.values():
                self.channel.sum_to_root(exact.as_array())
        self.downlink.remember(plan.chunks)
        if self.channel.mpi_rank != ROOT:
            return None
        return [self._mean_update(plan, place, exact) for place, exact in sums.items()]

    def combine(self, round_number: int, updates: Sequence[TypeUpdate]) -> None:
        """Let the strategy turn the means into new common values (CMGA, DeMA); root only."""
        with self.journal.phase("aggregate"):
            combined = self.strategy.combine(updates, self.adapters.tensors)
            self.adapters.apply(combined.change)
        self.journal.metrics(round_number, combined.metrics)

    def broadcast(self) -> None:
        """Send the root's common values to every rank, as the messages that clients download."""
        with self.journal.phase("broadcast"):
            self.downlink.broadcast(self.adapters, self.channel, self.config.collective.wire)

    def evaluate(self, round_number: int) -> None:
        """Score every model type's global adapter on the held-out rows."""
        with self.journal.phase("evaluate", round_number):
            scores = []
            for place, backbone in enumerate(self.federation.backbones):
                bank = self._global_bank(place)
                scores += score_model_type(backbone, self.attached[place], bank, self.heldout, self.channel)
            gathered = gather_scores(scores, self.channel)
        if gathered is not None:
            for model_type in self.federation.model_types:
                mine = [score for score in gathered if score.model_type == model_type.index]
                self.journal.evaluation(round_number, model_type.name, mean_loss(mine))

    def _align(self) -> None:
        """Find the frozen part of every type's head branch on public text, and log how well the types agree."""
        federation = self.federation
        assert federation.public is not None
        with self.journal.phase("align"):
            self.frames, correlation = align_heads(
                federation.backbones,
                federation.public,
                self.layouts[0].head,
                self.config.heterotune,
                self.channel,
                run_seed=self.config.seed,
            )
            banks = [self._global_bank(place) for place in range(len(self.layouts))]
            cosines = gradient_cosines(federation.backbones, self.attached, banks, federation.public)
        entry = {"name": "alignment/correlation", "value": correlation, "unit": "correlation"}
        self.journal.metrics(0, [entry, *cosines])

    def _prepare(self, round_number: int, chunk: Chunk) -> PreparedChunk:
        return prepare_chunk(
            chunk,
            self.federation.data.train,
            self.config.local,
            run_seed=self.config.seed,
            round_number=round_number,
        )

    def _train_chunk(self, chunk: Chunk, prepared: PreparedChunk) -> TrainedChunk:
        place, started = chunk.model_type, time.perf_counter()
        layout, backbone = self.layouts[place], self.federation.backbones[place]
        personal = [self.store.load(client.client_id, layout) for client in chunk.clients]
        frame = self.frames[place]
        bank = stack_clients(layout, self.adapters.values, personal, device=backbone.device, head_frame=frame)
        batches = prepared.batches(backbone.device)
        trained = train_chunk(backbone, self.attached[place], bank, chunk, batches, self.config.local)
        for client, values_P in zip(chunk.clients, trained.values_KP, strict=True):
            self.store.save(client.client_id, layout, values_P)
        self.journal.chunk(trained, prepared, time.perf_counter() - started)
        return trained

    def _send(self, plan: RoundPlan, trained: TrainedChunk, exact: ExactSum) -> None:
        place, ledger = trained.chunk.model_type, self.journal.ledger
        self.downlink.note(trained.chunk, self.layouts[place], ledger, plan.round_number)
        send_updates(
            trained,
            self.layouts[place],
            exact,
            ledger,
            round_number=plan.round_number,
            num_rows_of_type=plan.num_rows[place],
            codec=self.config.collective.wire,
        )

    def _wait_in_lock_step(self, plan: RoundPlan, place: int, *, num_passes: int) -> None:
        """Make the passes that the busiest rank makes beyond ours, where ranks share the backbone."""
        backbone = self.federation.backbones[place]
        if not backbone.in_lock_step:
            return
        idle_passes = passes_in_lock_step(plan.by_rank, place) - num_passes
        if idle_passes == 0:
            return
        with self.journal.phase("train", plan.round_number), self.journal.idle():
            bank = self._global_bank(place)
            for _ in range(idle_passes):
                idle_training_pass(backbone, self.attached[place], bank)

    def _mean_update(self, plan: RoundPlan, place: int, exact: ExactSum) -> TypeUpdate:
        layout = self.layouts[place]
        mean_P = exact.to_float64(num_clients=plan.num_clients[place])
        means = {spec.key: mean_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
        return TypeUpdate(layout.model_type, plan.num_rows[place], means)

    def _global_bank(self, place: int) -> Bank:
        """Return a model type's global adapter as the bank of one client; personal tensors at their first values."""
        layout, device = self.layouts[place], self.federation.backbones[place].device
        personal = self.store.load(NO_CLIENT, layout)
        return stack_clients(layout, self.adapters.values, [personal], device=device, head_frame=self.frames[place])
