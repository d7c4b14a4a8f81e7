"""The round loop: one strategy on one federation. Read it beside the picture in the README.

sample cohort -> chunks -> train (one pass per step for a whole chunk) -> updates over the wire into exact sums (under a
virtual clock: of those that arrive in time) -> gather to the root or to slices -> combine (CMGA, DeMA) -> broadcast
-> evaluate -> metrics, ledger, memory -> checkpoint
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.peft_start import read_starts
from heterotune.aggregation.round_sums import RoundSums
from heterotune.background import Background
from heterotune.checkpoint import Checkpoint
from heterotune.checkpointing import Checkpointing
from heterotune.chunk_training import ChunkTraining
from heterotune.client_store import CLIENTS_FOLDER, ClientStore
from heterotune.collective.channel import ROOT
from heterotune.collective.ledger import Ledger
from heterotune.downlink import Downlink
from heterotune.errors import RunStopped
from heterotune.evaluation.heldout import heldout_of_types
from heterotune.federation import Federation
from heterotune.fleet.assignment import assign_chunks
from heterotune.fleet.chunks import form_chunks
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.fleet.device_hours import device_hours
from heterotune.fleet.misbehaviour import absences, done_shares
from heterotune.fleet_scores import FleetScores
from heterotune.head_maps import HeadMaps
from heterotune.journal import Journal
from heterotune.leaving import Leaving
from heterotune.memory_attribution import attribute_messages, attribute_strategy
from heterotune.pooling import pool_clients, pool_cohort, pool_data
from heterotune.progress_record import RoundStart
from heterotune.protection import Protection
from heterotune.round_outcome import RoundOutcome, agree_on_outcome
from heterotune.round_plan import RoundPlan
from heterotune.round_progress import RoundProgress
from heterotune.saved_state import forget_what_came_after, go_on_from, state_of
from heterotune.server import GlobalAdapters
from heterotune.strategies.strategy import ServerRound, Strategy, TypeUpdate
from heterotune.topology import make_topology
from heterotune.training.chunk_batches import steps_of
from heterotune.training.prefetch import prefetch
from heterotune.training_reports import client_seconds, gather_training_reports, learn_from_reports
from heterotune.virtual_time.make_clock import make_round_clock

LOG = logging.getLogger(__name__)


class Simulation:
    """A strategy's federation, round by round. Every rank makes one and calls the same methods in the same order."""

    def __init__(
        self, federation: Federation, strategy: Strategy, journal: Journal, saved: Checkpoint | None = None
    ) -> None:
        """Attach the strategy's adapters to the backbones and give all ranks the root's first values.

        Args:
            federation: Fleet, data, backbones and channel.
            strategy: The method.
            journal: Where numbers go.
            saved: The state to go on from; None = begin. The same on every rank.
        """
        self.federation, self.strategy, self.journal = federation, strategy, journal
        self.config, self.channel = federation.config, federation.channel
        self.chunk_clients: dict[int, int] = {}  # place of a model type -> clients per chunk; set before round 1
        self.layouts = [strategy.layout(model_type, federation.model_types) for model_type in federation.model_types]
        self.is_personal = any(layout.trains_personal for layout in self.layouts)
        with journal.phase("build"):
            self.attached = {
                place: AttachedAdapter(self.layouts[place], backbone.llama)
                for place, backbone in federation.backbones.items()
            }
            start = read_starts(self.config.fleet, self.layouts, strategy.name) if saved is None else {}
            self.adapters = GlobalAdapters(self.layouts, run_seed=self.config.seed, start=start)
            self.heldout = heldout_of_types(
                [federation.data_of(place) for place in range(len(self.layouts))],
                [federation.questions_of(place) for place in range(len(self.layouts))],
                self.config.evaluate,
                federation.population.members,
                federation.device,
            )
            self.sums = RoundSums([layout.num_travelling for layout in self.layouts])
            self.topology = make_topology(self.config.collective.topology, self.adapters, self.channel)
        told = [*strategy.warnings, *self._nobodys_rows()]
        for text in told if journal.is_root else ():
            LOG.warning("%s", text)
        needs = self.config.needs_of(strategy.name)
        self.protection = Protection(self.config, federation.population, self.layouts, journal, needs)
        self.selection = CohortSelection(
            *(federation.population, self.config.cohort, self.config.availability),
            run_seed=self.config.seed,
            hours=device_hours(self.config, federation.model_types),
        )
        self.clock = make_round_clock(federation, self.layouts, journal, self.selection)
        self.store = ClientStore(
            journal.folder / CLIENTS_FOLDER, run_seed=self.config.seed, mpi_rank=self.channel.mpi_rank
        )
        self.background = Background("saving")
        self.progress = RoundProgress(
            journal,
            self.store,
            self.background,
            num_elements=[layout.num_travelling for layout in self.layouts],
            every_seconds=None if self.clock.holds else self.protection.progress_seconds,
        )
        self.checkpoints = Checkpointing(self.config.checkpoint, journal, self.progress, self.background)
        self._pooled = pool_clients(federation.population) if strategy.pools_clients else None
        trained_on = federation if self._pooled is None else pool_data(federation)
        self.training = ChunkTraining(
            trained_on, self.attached, strategy.local_rule, self.adapters, self.store, journal
        )
        self.head = HeadMaps(federation, self.attached, self.layouts, self.training.global_bank)
        self.training.frames = self.head.frames
        self.scores = FleetScores(federation, self.attached, self.training, self.heldout, is_personal=self.is_personal)
        self._num_enlisted = {
            layout.model_type: len(federation.population.ids_of(place)) for place, layout in enumerate(self.layouts)
        }
        self.pass_seconds = [float(model_type.num_parameters) for model_type in federation.model_types]
        self.server_state: Mapping[str, torch.Tensor] = {}  # on the ranks that combine
        self.rounds_done = 0
        forget_what_came_after(self, saved)
        self._align(saved)
        self.downlink = Downlink(self.layouts, self.head.frames)
        different = {id(heldout): heldout for heldout in self.heldout}.values()
        batches = [batch for heldout in different for batch in heldout.batches]
        attribute_strategy(journal.memory, self.adapters, self.head.frames, batches)
        attribute_messages(journal.memory, self.downlink, self.sums, self.topology)
        if saved is not None:
            go_on_from(self, saved)
        self.broadcast(self.rounds_done)

    def close(self) -> None:
        """Take the adapters off the backbones, when all is saved."""
        self.background.wait()
        for attached in self.attached.values():
            attached.detach()

    def run(self) -> None:
        """Run every round that is not done yet.

        Raises:
            RunStopped: If somebody asked for it; the state is saved. On every rank alike.
        """
        for round_number in range(self.rounds_done + 1, self.config.rounds + 1):
            self.run_round(round_number)

    def run_round(self, round_number: int) -> None:
        """Run one federation round. Every rank must call this."""
        started = time.perf_counter()
        self.journal.begin_round(round_number)
        self.store.begin_round(round_number)
        plan = self.plan(round_number)
        self.train(plan)
        updates = self.gather(self.arrive(plan))
        if updates is not None:
            self.combine(round_number, updates)
        self.broadcast(round_number)
        self.refresh_head(round_number)
        if round_number % self.config.evaluate.every_rounds == 0 or round_number == self.config.rounds:
            self.evaluate(round_number)
        if self.channel.mpi_rank == ROOT:
            self.store.tidy()  # nobody reads it until all have come to the round's end
        end = self.journal.end_round(round_number, time.perf_counter() - started, self.pass_seconds)
        self.pass_seconds, self.rounds_done = end.pass_seconds, round_number
        self.checkpoint(end.stop_wanted)

    def plan(self, round_number: int) -> RoundPlan:
        """Sample the cohort, cut it into chunks and hand them to ranks; every rank comes to the same plan."""
        federation, config = self.federation, self.config
        cohort = self.clock.draw(round_number)
        num_steps = {client.client_id: steps_of(client.num_rows, config.local) for client in cohort}
        if self._pooled is not None:
            cohort, num_steps = pool_cohort(cohort, num_steps, self._pooled)
        absent = absences(
            cohort, config.misbehaviour, num_steps=num_steps, run_seed=config.seed, round_number=round_number
        )
        done = done_shares(absent, config.misbehaviour, run_seed=config.seed, round_number=round_number)
        present = [client for client in cohort if client not in absent]
        chunks = form_chunks(present, chunk_clients=self.chunk_clients, num_steps=num_steps)
        with self.journal.phase("progress", round_number):
            is_saved = self.checkpoints.saved_round == self.rounds_done
            left = self.progress.begin(round_number, partial(self._start_of, round_number), chunks, is_saved=is_saved)
        by_rank = assign_chunks(
            left,
            federation.placement,
            seconds_per_pass=dict(enumerate(self.pass_seconds)),
            in_lock_step=federation.in_lock_step,
        )
        return RoundPlan(round_number, chunks, by_rank, absent, self.strategy.weights, done)

    def train(self, plan: RoundPlan) -> None:
        """Train this rank's chunks; every update that counts goes over the wire into its model type's exact sum.

        Raises:
            RunStopped: If some rank was asked to stop and left; what is finished is saved. On every rank alike.
        """
        sums, mpi_rank = self.sums.begin(plan.places), self.channel.mpi_rank
        self.protection.begin(plan)
        leaving = Leaving(plan, self.federation.backbones, self.progress, self.journal)
        for place in range(len(self.layouts)):
            mine, num_passes = [] if leaving.has_left else plan.chunks_of(mpi_rank, place), 0
            for chunk, prepared in prefetch(mine, partial(self.training.prepare, plan.round_number)):
                trained = self.training.train(plan.round_number, chunk, prepared)
                checks = self.protection.checks(place)
                intake = self.clock.intake(self.protection.intake(place, sums[place]))
                ledger = self.journal.ledger if self._pooled is None else Ledger()  # nobody sends what is in one place
                self.training.send(plan, trained, self.downlink, checks, intake, ledger)
                with self.journal.phase("progress"):
                    self.progress.chunk_done(chunk, sums)
                num_passes += chunk.num_passes
                if leaving.after(place, num_passes):
                    break
            self.training.wait_in_lock_step(plan, place, num_passes, leaving)
        leaving.stop_if_any_rank_left(self.config.rounds, sums)
        with self.journal.phase("progress"):
            self.progress.end(sums)

    def arrive(self, plan: RoundPlan) -> RoundPlan:
        """Let virtual time pass until the round ends; returns the plan of those that count. Every rank must call this.

        Without a clock, and where a round waits for all, these are those that trained, and they are in the sums.
        """
        if self.channel.mpi_rank == ROOT:
            self.downlink.note(plan.absent, self.journal.ledger, plan.round_number)
        self.downlink.remember(plan.cohort, plan.round_number)
        counted = self.clock.advance(plan, self.protection.side_bytes)
        if counted is not plan:
            with self.journal.phase("gather"):
                self.protection.begin(counted)
                sums = self.sums.begin(counted.places)
                intakes = {place: self.protection.intake(place, exact) for place, exact in sums.items()}
                self.clock.add_arrived(counted, intakes, [layout.num_travelling for layout in self.layouts])
        return counted

    def gather(self, plan: RoundPlan) -> list[TypeUpdate] | None:
        """Add up all ranks' sums; returns each model type's mean update on the ranks that combine.

        Returns:
            None elsewhere, and on all ranks if too few clients count to change anything.

        Raises:
            TooFewClients: If the run stops then.
        """
        self.store.flush()  # what others may need is on disk before ranks meet
        with self.journal.phase("gather"):
            outcome = agree_on_outcome(plan, self.journal.take_verdicts(), self.channel)
            goes_on = self.protection.goes_on(outcome, plan.round_number)
            updates = self.protection.gather(self.topology, self.sums, outcome) if goes_on else None
        self.journal.metrics(plan.round_number, self.protection.metrics(outcome, goes_on=goes_on))
        self._learn_from(plan, outcome)
        return updates

    def _learn_from(self, plan: RoundPlan, outcome: RoundOutcome) -> None:
        """Let the selection of cohorts know what clients reported. Every rank must call this."""
        if self.config.cohort.needs_reports and self._pooled is None:
            reports = gather_training_reports(self.journal.client_losses(), self.channel)
            seconds = client_seconds(plan, self.config, self.clock)
            learn_from_reports(self.selection, reports, outcome, seconds, self.config, plan.round_number)
        self.journal.metrics(plan.round_number, self.selection.metrics(plan.round_number))

    def combine(self, round_number: int, updates: Sequence[TypeUpdate]) -> None:
        """Let the strategy turn the means into new common values (CMGA, DeMA); on the ranks that combine."""
        with self.journal.phase("aggregate"):
            combined = self.strategy.combine(updates, self._server_round(round_number))
            self.topology.apply(combined.change)
            self.adapters.base.add(combined.base)
            self.server_state = combined.state
        self.journal.metrics(round_number, combined.metrics)

    def broadcast(self, round_number: int) -> None:
        """Let every rank have the common values, as the messages that clients download after a round."""
        self.adapters.begin_round(round_number + 1)
        with self.journal.phase("broadcast"):
            self.topology.broadcast(self.downlink, self.config.collective.picked_wire_down, round_number)

    def refresh_head(self, round_number: int) -> None:
        """Align the head branch anew, or teach it on public rows, if the run wants that after this round."""
        options = self.config.heterotune
        realign, distill = options.realigns(round_number), options.distills(round_number)
        if not self.head.exist or not (realign or distill):
            return
        with self.journal.phase("align", round_number):
            refreshed = self.head.refresh(self.adapters.exact, realign=realign, distill=distill)
            self.topology.replace(refreshed.cores)
        self.journal.metrics(round_number, refreshed.metrics)
        if realign:
            self.downlink.realign(self.head.frames, round_number)
        self.broadcast(round_number)
        if distill and options.distill_steps:
            self.teach(round_number, refreshed.answer_NC)

    def teach(self, round_number: int, answer_NC: torch.Tensor | None) -> None:
        """Let every model type's adapter learn by steps on public rows what all types together answer."""
        with self.journal.phase("distill", round_number):
            taught, metrics = self.head.teach(self.adapters.exact, answer_NC, round_number)
            self.topology.replace(taught)
        self.journal.metrics(round_number, metrics)
        self.broadcast(round_number)

    def evaluate(self, round_number: int) -> None:
        """Score every model type's global adapter on the held-out rows, and clients' own ones where these count."""
        self.store.refresh()
        with self.journal.phase("evaluate", round_number):
            of_type = self.scores.measure(self.head.frames, self.chunk_clients)
        if of_type is not None:
            self.journal.evaluation(round_number, of_type)

    def checkpoint(self, stop_wanted: bool) -> None:
        """Save the state after this round if it is due; stop if somebody asked for it. Every rank must call this."""
        is_last = self.rounds_done == self.config.rounds
        if self.checkpoints.is_due(self.rounds_done) or is_last or stop_wanted:
            with self.journal.phase("checkpoint"):
                if self.channel.mpi_rank == ROOT:
                    self.checkpoints.pick_best(self.rounds_done)
                    self.checkpoints.save(state_of(self))
                self.channel.barrier()  # the next round replaces clients' files
            self.checkpoints.saved_round = self.rounds_done
        if is_last or stop_wanted:
            self.background.wait()
            self.journal.finish()
        if stop_wanted and not is_last:
            raise RunStopped(f"stopped as asked after round {self.rounds_done} of {self.config.rounds}; all is saved.")

    def _nobodys_rows(self) -> list[str]:
        """Say so if clients' own models count and no held-out row belongs to a client."""
        are_scored = self.config.evaluate.own_adapters == "all_rows"
        if not self.is_personal or are_scored or (self.federation.data.heldout_clients >= 0).any():
            return []
        text = f"{self.strategy.name}: clients' own models count, but no held-out row is a client's own"
        return [f"{text}, so that they are not scored. Set evaluate.own_adapters: all_rows, or leave data.test out."]

    def _align(self, saved: Checkpoint | None) -> None:
        """Find the frozen part of every type's head branch on public text, or take over what was found."""
        if saved is not None:
            self.head.frames[:] = self.head.saved_frames(saved.tensors)
        elif self.head.exist:
            with self.journal.phase("align"):
                metrics = self.head.find()
            self.journal.metrics(0, metrics)

    def _server_round(self, round_number: int) -> ServerRound:
        """Return what the strategy may know when it combines a round's updates."""
        return ServerRound(
            round_number=round_number,
            run_seed=self.config.seed,
            layouts={layout.model_type: layout for layout in self.layouts},
            tensors=self.adapters.tensors,
            values=self.adapters.values,
            own=self.adapters.exact,
            state=self.server_state,
            num_enlisted=self._num_enlisted,
            grams=self.topology.grams,
        )

    def _start_of(self, round_number: int) -> RoundStart:
        """Return what the clients of a round train from; right until `combine`."""
        return RoundStart(self.config.seed, round_number, self.adapters.sha256())
