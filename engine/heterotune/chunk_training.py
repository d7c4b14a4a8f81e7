"""A chunk of clients from its rows to the messages that they send: what the round loop does for every chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, HeadFrame, stack_clients
from heterotune.client_store import ClientStore
from heterotune.collective.ledger import Ledger
from heterotune.downlink import Downlink
from heterotune.federation import Federation
from heterotune.fleet.chunks import Chunk
from heterotune.journal import Journal
from heterotune.leaving import Leaving
from heterotune.profiling.components import DATA, OPTIMIZER_STATE
from heterotune.randomness import NO_CLIENT
from heterotune.round_plan import RoundPlan
from heterotune.server import GlobalAdapters
from heterotune.strategies.strategy import RuleOfRound
from heterotune.training.chunk_batches import PreparedChunk, prepare_chunk
from heterotune.training.label_priors import LabelPriors
from heterotune.training.local import TrainedChunk, idle_training_pass, train_chunk
from heterotune.training.local_rule import LocalRule
from heterotune.training_reports import note_reports
from heterotune.uplink import Intake, UpdateChecks, send_updates


class ChunkTraining:
    """What a rank's chunks have in common: backbones with adapters on them, common values, personal tensors."""

    def __init__(
        self,
        federation: Federation,
        attached: Mapping[int, AttachedAdapter],
        rule_of: RuleOfRound,
        adapters: GlobalAdapters,
        store: ClientStore,
        journal: Journal,
    ) -> None:
        """Hold on to what is shared; nothing is copied.

        Args:
            federation: Backbones and rows.
            attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
            rule_of: What the method does in a model type's local training.
            adapters: The common values.
            store: The clients' own tensors.
            journal: Where numbers go.
        """
        self._federation, self._config, self._rule_of = federation, federation.config, rule_of
        self._attached, self._adapters, self._store, self._journal = attached, adapters, store, journal
        self.frames: list[HeadFrame | None] = [None] * len(adapters.layouts)
        self._priors = _label_priors(federation)

    def rule(self, place: int, round_number: int) -> LocalRule:
        """Return what the method does in the local training of a chunk of a model type."""
        return self._rule_of(self._adapters.layouts[place], round_number)

    def prepare(self, round_number: int, chunk: Chunk) -> PreparedChunk:
        """Draw a chunk's rows; may run in another thread than the training before it."""
        rows, config = self._federation.data.train, self._config
        return prepare_chunk(
            chunk, rows, config.local, run_seed=config.seed, round_number=round_number, priors=self._priors
        )

    def train(self, round_number: int, chunk: Chunk, prepared: PreparedChunk) -> TrainedChunk:
        """Make a chunk's passes over its backbone and keep its clients' own tensors."""
        place, memory = chunk.model_type, self._journal.memory
        layout, backbone = self._adapters.layouts[place], self._federation.backbones[place]
        with self._train_phase(round_number, chunk, prepared):
            started = time.perf_counter()
            personal = [self._store.load(client.client_id, layout) for client in chunk.clients]
            bank = self._bank(place, personal, self.frames[place])
            memory.now_making(OPTIMIZER_STATE)
            batches = memory.first_pass(prepared.batches(backbone.device))
            rule, local = self.rule(place, round_number), self._config.local
            trained = train_chunk(backbone, self._attached[place], bank, chunk, batches, local, rule)
            for client, values_P in zip(chunk.clients, trained.values_KP, strict=True):
                self._store.save(client.client_id, layout, values_P)
            self._journal.chunk(trained, prepared, time.perf_counter() - started)
        return trained

    def send(
        self,
        plan: RoundPlan,
        trained: TrainedChunk,
        downlink: Downlink,
        checks: UpdateChecks,
        intake: Intake,
        ledger: Ledger,
    ) -> None:
        """Count in a ledger what the clients of a chunk downloaded, and add what counts of their updates to a sum."""
        place = trained.chunk.model_type
        with self._journal.phase("encode"):
            downlink.note(trained.chunk.clients, ledger, plan.round_number)
            verdicts = send_updates(
                trained,
                self._adapters.layouts[place],
                intake,
                ledger,
                round_number=plan.round_number,
                weight_K=plan.weights_of(trained.chunk.clients),
                wire=self._config.collective,
                run_seed=self._config.seed,
                store=self._store,
                checks=checks,
            )
            self._journal.judged(verdicts)
            if self._config.cohort.needs_reports:
                layout = self._adapters.layouts[place]
                note_reports(trained, ledger, model_type=layout.model_type, round_number=plan.round_number)

    @contextmanager
    def idle(self, round_number: int, place: int) -> Iterator[Callable[[], None]]:
        """Yield what makes a pass that counts for nothing, because ranks that share the backbone train."""
        with self._journal.phase("train", round_number, shape=("idle", place)), self._journal.idle():
            bank = self.global_bank(place, self.frames[place])
            backbone, attached = self._federation.backbones[place], self._attached[place]
            yield partial(idle_training_pass, backbone, attached, bank, self.rule(place, round_number))

    def wait_in_lock_step(self, plan: RoundPlan, place: int, num_passes: int, leaving: Leaving) -> None:
        """Make the passes that the busiest rank of our backbone group makes beyond ours."""
        backbone = self._federation.backbones.get(place)
        if backbone is None or not backbone.in_lock_step or leaving.has_left:
            return
        idle_passes = range(num_passes + 1, plan.num_passes(backbone.mpi_ranks, place) + 1)
        if idle_passes:
            with self.idle(plan.round_number, place) as make_pass:
                for done in idle_passes:
                    make_pass()
                    if leaving.after(place, done):
                        break

    def global_bank(self, place: int, frame: HeadFrame | None) -> Bank:
        """Return a model type's global adapter as the bank of one client; personal tensors at their first values."""
        return self._bank(place, [self._store.load(NO_CLIENT, self._adapters.layouts[place])], frame)

    def personal_bank(self, place: int, client_ids: Sequence[int]) -> Bank:
        """Return clients' own adapters: the common values and each client's own tensors, as they are now."""
        personal = [self._store.load(client_id, self._adapters.layouts[place]) for client_id in client_ids]
        return self._bank(place, personal, self.frames[place])

    def _bank(self, place: int, personal: Sequence[Mapping[str, Tensor]], frame: HeadFrame | None) -> Bank:
        """Return a model type's adapters as clients with these personal tensors begin with them."""
        return stack_clients(
            self._adapters.layouts[place],
            self._adapters.held_by(place),
            personal,
            device=self._federation.device,
            head_frame=frame,
            base=self._adapters.base.of_model_type(place),
        )

    def _train_phase(self, round_number: int, chunk: Chunk, prepared: PreparedChunk) -> AbstractContextManager[None]:
        """Record a chunk's training; chunks of one model type and of about one size need the same memory."""
        for arrays in prepared.passes:
            for array in arrays:
                self._journal.memory.holdings.follow(DATA, array)
        shape = (chunk.model_type, len(chunk.clients), prepared.passes[0][0].size.bit_length())
        facts = {
            "model_type": self._adapters.layouts[chunk.model_type].model_type,
            "clients": [client.client_id for client in chunk.clients],
            "passes": chunk.num_passes,
        }
        return self._journal.phase("train", round_number, shape=shape, facts=facts)


def _label_priors(federation: Federation) -> LabelPriors | None:
    """Return what tells clients' label priors, None if the run adjusts no logits."""
    smoothing, data = federation.config.local.logit_adjustment, federation.data
    if smoothing is None:
        return None
    vocab_size = federation.model_types[0].vocab_size
    return LabelPriors.of_rows(data.train.held(), len(data.label_names), vocab_size, smoothing)
