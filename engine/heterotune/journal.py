"""Everything that a simulation writes down: phases with their memory and time, the ledger, metrics, status."""

from __future__ import annotations

import json
import logging
import platform
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.ledger_sums import LedgerSums
from heterotune.evaluation.measures import EVAL, LOSS, Measure, fleet_metrics, type_metrics
from heterotune.profiling import leaks
from heterotune.profiling.components import ADAPTERS, BUFFERS
from heterotune.profiling.idle_time import IdleTime, idle_metrics
from heterotune.profiling.process_memory import ProcessMemory, pss_bytes
from heterotune.profiling.recorder import MemoryRecorder
from heterotune.profiling.spans import Spans
from heterotune.profiling.timing import Stopwatch
from heterotune.round_notes import (
    ChunkPasses,
    ClientLoss,
    RoundNotes,
    highest_peaks,
    loss_metrics,
    measured_costs,
    node_peaks,
    padding_metric,
    seconds_metrics,
)
from heterotune.run_folder import RunFolder
from heterotune.training.chunk_batches import PreparedChunk
from heterotune.training.local import TrainedChunk

SHOW_SECONDS = 0.1
"""The live display looks a few times a second; writing its status more often would cost short rounds dearly."""

LOSS_EVAL = f"{LOSS}/{EVAL}"

_LENGTH = struct.Struct("<Q")
_MAKING = {
    "train": ADAPTERS,
    "evaluate": ADAPTERS,
    "align": BUFFERS,
    "distill": ADAPTERS,
    "encode": BUFFERS,
    "gather": BUFFERS,
    "aggregate": BUFFERS,
    "broadcast": BUFFERS,
    "checkpoint": BUFFERS,
}
"""Phases whose tensors are tracked, with the component of what they make outside of models."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundEnd:
    """What every rank knows at the end of a round.

    Attributes:
        pass_seconds: What one pass of each model type costs, as measured on all ranks.
        stop_wanted: Whether any rank was asked to stop.
    """

    pass_seconds: list[float]
    stop_wanted: bool


class ScalarSink(Protocol):
    """Shows metrics elsewhere while a run goes on."""

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take metrics as they stand in metrics.jsonl."""
        ...

    def flush(self) -> None:
        """Let people see what was added."""
        ...

    def close(self) -> None:
        """Take nothing more."""
        ...


class Journal:
    """One strategy's record on every rank; only the root writes files, after it has gathered what the others noted."""

    def __init__(
        self,
        folder: RunFolder,
        channel: Channel,
        model_types: Sequence[str],
        strategy: str,
        rounds: int,
        stop_wanted: Callable[[], bool] = lambda: False,
        runtime: ProcessMemory | None = None,
    ) -> None:
        """Begin an empty record.

        Args:
            folder: The strategy's folder: the run folder, or a folder in it for a comparison.
            channel: The ranks.
            model_types: Names, in fleet order.
            strategy: For the status.
            rounds: For the status.
            stop_wanted: Whether this rank was asked to stop; asked after every chunk.
            runtime: This process before it loaded a model; None = now.
        """
        self.run_folder, self.channel, self.model_types = folder, channel, tuple(model_types)
        self.strategy, self.rounds = strategy, rounds
        self.ledger = Ledger()
        self.ledger_sums = LedgerSums(("type", "direction"))  # the root's: of all rounds, without their entries
        # The root's: model type -> measure, e.g. "loss/eval" -> (round, value), oldest first.
        self.scores: dict[str, dict[str, list[tuple[int, float]]]] = {n: defaultdict(list) for n in self.model_types}
        self.round_seconds: list[float] = []
        self.peak_bytes: dict[tuple[int, str], int] = {}
        self.idle_time = IdleTime()
        self.stop_wanted = stop_wanted
        self.memory = MemoryRecorder(channel.mpi_rank, runtime)
        self.scalars: ScalarSink | None = None  # the root's; None = nobody looks on
        self._estimates: Sequence[Mapping[tuple[str, str], int]] = ()
        self._stopwatch, self._spans = Stopwatch(), Spans()
        self._losses: list[ClientLoss] = []
        self._passes: list[ChunkPasses] = []
        self._verdicts: list[Verdict] = []
        self._traffic: list[dict[str, Any]] = []
        self._round_number = 0
        self._shown_at = -SHOW_SECONDS

    @property
    def folder(self) -> Path:
        """Where this strategy's files are."""
        return self.run_folder.path

    @property
    def is_root(self) -> bool:
        """Whether this rank writes."""
        return self.channel.mpi_rank == ROOT

    @contextmanager
    def phase(
        self,
        name: str,
        round_number: int | None = None,
        *,
        shape: Hashable = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Record memory and time of a phase, and show it in the status.

        Args:
            name: The phase.
            round_number: From here on; None = the one at work, 0 before the first.
            shape: Tells kinds of work in the phase apart that need different memory.
            facts: What a trace says of it.
        """
        if round_number is not None:
            self._round_number = round_number
        self._show(name)
        self.channel.traffic.observer = self._waited
        recorded = self.memory.phase(name, self._round_number, making=_MAKING.get(name), shape=shape)
        with self._spans.span(name, facts), recorded, self._stopwatch.phase(name):
            yield

    def begin_round(self, round_number: int) -> None:
        """Close the books of what came before round 1: alignment and first evaluation are round 0 of the traffic.

        What a job that goes on later moves before its first round counts to that round. Every rank calls this.
        """
        if round_number == 1:
            self._note_traffic(0)
        self.idle_time.begin_round()

    def expect(self, estimates: Sequence[Mapping[tuple[str, str], int]]) -> None:
        """Write a plan's estimate beside each peak from here on.

        Args:
            estimates: (phase, kind) -> bytes, for each MPI rank; empty = there is no plan.
        """
        self._estimates = estimates

    def idle(self) -> AbstractContextManager[None]:
        """Time what a rank does only to stay in lock step with the others."""
        return _both(self._spans.span("idle"), self._stopwatch.phase("idle"))

    def metrics(self, round_number: int, entries: Sequence[dict[str, Any]]) -> None:
        """Write metrics of a round (root only; nothing elsewhere)."""
        if self.is_root and entries:
            self.run_folder.append_metrics([{"round": round_number, **entry} for entry in entries])
            self._add_scalars(round_number, entries)

    def timeline(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write what clients took in virtual time (root only; nothing elsewhere)."""
        if self.is_root and entries:
            self.run_folder.append_timeline(entries)

    def evaluation(self, round_number: int, of_type: Mapping[str, Sequence[Measure]]) -> None:
        """Write what the held-out rows say of every model type, and the means over the types."""
        for name, measures in of_type.items():
            for measure in measures:
                self.scores[name][measure.full_name].append((round_number, measure.value))
            self.metrics(round_number, list(type_metrics(name, measures)))
        self.metrics(round_number, list(fleet_metrics(of_type)))
        if self.scalars is not None:
            self.scalars.flush()

    def chunk(self, trained: TrainedChunk, prepared: PreparedChunk, seconds: float) -> None:
        """Note a trained chunk: its clients' losses, its padding, what a pass costs."""
        chunk = trained.chunk
        rows = zip(chunk.clients, trained.loss_K.tolist(), trained.square_K.tolist(), strict=True)
        for client, loss, square in rows:
            self._losses.append((client.client_id, chunk.model_type, client.num_rows, loss, square))
        self._passes.append((chunk.model_type, chunk.num_passes, seconds, prepared.padding_share))

    def judged(self, verdicts: Iterable[Verdict]) -> None:
        """Note whether clients' updates count."""
        self._verdicts += verdicts

    def take_verdicts(self) -> list[Verdict]:
        """Return what was noted of this round's updates, and begin again with nothing."""
        taken, self._verdicts = self._verdicts, []
        return taken

    def client_losses(self) -> tuple[ClientLoss, ...]:
        """Return what this rank has noted of the losses of clients that trained in this round."""
        return tuple(self._losses)

    def losses_of(self, round_number: int) -> list[float]:
        """Return the held-out loss of each model type after a round; nothing if it was not evaluated (root only)."""
        return [loss for number, loss in (found[-1] for found in self.losses.values()) if number == round_number]

    @property
    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """Model type -> (round, held-out loss) of its global adapter, oldest first (root only)."""
        return {name: found[LOSS_EVAL] for name, found in self.scores.items() if LOSS_EVAL in found}

    def round_notes(self) -> RoundNotes:
        """Return a copy of what this rank has noted since the last round's end."""
        ledger = Ledger()
        ledger.merge(self.ledger)
        return RoundNotes(list(self._losses), list(self._passes), ledger, list(self._verdicts))

    def take_over(self, notes: RoundNotes) -> None:
        """Add what an earlier job noted in this round."""
        self._losses += notes.losses
        self._passes += notes.passes
        self._verdicts += notes.verdicts
        self.ledger.merge(notes.ledger)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on writing after this round (root only)."""
        return {
            "positions": self.run_folder.positions(),
            "scores": self.scores,
            "round_seconds": self.round_seconds,
            "ledger_sums": self.ledger_sums.state(),
            "peak_bytes": [[*key, peak] for key, peak in self.peak_bytes.items()],
            "idle_time": self.idle_time.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, {} = nothing, and cut off what was written later. Every rank calls this."""
        if not self.is_root:
            return
        self.run_folder.cut_back(state.get("positions", {}))
        self.ledger_sums.restore(state.get("ledger_sums", ()))
        self.round_seconds = list(state.get("round_seconds", ()))
        self.idle_time.restore(state.get("idle_time", ()))
        self.peak_bytes = {(mpi_rank, kind): peak for mpi_rank, kind, peak in state.get("peak_bytes", ())}
        for name, values in state.get("losses", {}).items():  # all that earlier versions kept
            self.scores[name][LOSS_EVAL] = [(round_number, loss) for round_number, loss in values]
        for name, of_measure in state.get("scores", {}).items():
            for measure, values in of_measure.items():
                self.scores[name][measure] = [(round_number, value) for round_number, value in values]

    def end_round(self, round_number: int, seconds: float, pass_seconds: Sequence[float]) -> RoundEnd:
        """Bring what every rank noted to the root and write it, clients in their order. Every rank must call this.

        Args:
            round_number: The round.
            seconds: Its wall time on this rank.
            pass_seconds: What one pass of each model type was thought to cost.
        """
        losses = ", ".join(f"{name} {values[-1][1]:.4f}" for name, values in self.losses.items())
        told = f"; held-out loss {losses}" if losses else ""
        LOG.info("%s: round %d of %d took %.2f s%s", self.strategy, round_number, self.rounds, seconds, told)
        spent = self._stopwatch.drain()
        report = {
            "memory": self.memory.drain(),
            "spans": self._spans.drain(),
            "node": platform.node(),
            "pss": pss_bytes(),
            "seconds": spent,
            "idle": self.idle_time.of_round(spent.get("idle", 0.0), seconds),
            "passes": self._passes,
            "losses": self._losses,
            "traffic": self._drain_traffic(round_number),
            "stop": self.stop_wanted(),
        }
        notes = json.dumps(report).encode()
        gathered = self.channel.gather_bytes(_LENGTH.pack(len(notes)) + notes + self.ledger.drain().to_bytes())
        self._passes, self._losses = [], []
        costs, stop = np.array(pass_seconds, dtype=np.float64), 0.0
        if gathered is not None:
            reports = [self._read(part) for part in gathered]
            num_bytes = self._write_ledger([ledger for _, ledger in reports])
            self._write_traffic([row for notes, _ in reports for row in notes["traffic"]])
            losses = [tuple(row) for notes, _ in reports for row in notes["losses"]]
            self.metrics(round_number, list(loss_metrics(losses, self.model_types)))
            self._write_memory([notes["memory"] for notes, _ in reports])
            self._write_memory([node_peaks(round_number, [(notes["node"], notes["pss"]) for notes, _ in reports])])
            self.run_folder.write_spans(round_number, [notes["spans"] for notes, _ in reports])
            self.round_seconds.append(seconds)
            self.metrics(round_number, list(seconds_metrics(seconds, reports[ROOT][0]["seconds"])))
            self.metrics(round_number, idle_metrics(self.idle_time.add([notes["idle"] for notes, _ in reports])))
            passes = [tuple(row) for notes, _ in reports for row in notes["passes"]]
            self.metrics(round_number, [padding_metric(passes)])
            costs = measured_costs(costs, passes)
            self._show_totals(round_number, num_bytes, [notes["memory"] for notes, _ in reports])
            stop = float(any(notes["stop"] for notes, _ in reports))
        told = np.append(costs, stop)
        self.channel.broadcast(told)
        return RoundEnd(told[:-1].tolist(), bool(told[-1]))

    def write_memory(self) -> None:
        """Write what was measured since the last round's end, so that a crash leaves it. Every rank must call this."""
        gathered = self.channel.gather_bytes(json.dumps(self.memory.drain()).encode())
        if gathered is not None:
            self._write_memory(json.loads(part) for part in gathered)

    def finish(self) -> None:
        """Write the memory of what came after the last round, and tell of leaks. Every rank must call this."""
        self.write_memory()
        for leak in self.leaks() if self.is_root else ():
            LOG.warning("%s: %s", self.strategy, leak)

    def leaks(self) -> list[leaks.Leak]:
        """Return which peaks have grown round after round (root only)."""
        return leaks.find_leaks(self.run_folder.read_memory())

    @staticmethod
    def _read(part: bytes) -> tuple[dict[str, Any], Ledger]:
        """Split what a rank sent: its notes and its ledger."""
        (num_bytes,) = _LENGTH.unpack_from(part)
        end = _LENGTH.size + num_bytes
        return json.loads(part[_LENGTH.size : end]), Ledger.from_bytes(part[end:])

    def _write_ledger(self, by_rank: Sequence[Ledger]) -> dict[str, int]:
        """Write what arrived; returns its bytes by direction."""
        arrived = Ledger()
        for ledger in by_rank:
            arrived.merge(ledger)
        self.run_folder.append_ledger(arrived.records())
        num_bytes = {"up": 0, "down": 0}
        for entry in arrived:
            self.ledger_sums.add(entry)
            num_bytes[entry.direction] += entry.num_bytes
        return num_bytes

    def _write_traffic(self, rows: Sequence[dict[str, Any]]) -> None:
        self.run_folder.append_traffic(sorted(rows, key=lambda row: (row["round"], row["mpi_rank"], row["what"])))

    def _note_traffic(self, round_number: int) -> None:
        """Put what this rank moved since the last time under a round."""
        for verb, moved in sorted(self.channel.traffic.drain().items()):
            self._traffic.append(
                {
                    "round": round_number,
                    "mpi_rank": self.channel.mpi_rank,
                    "what": verb,
                    "calls": moved.num_calls,
                    "sent_bytes": moved.sent_bytes,
                    "received_bytes": moved.received_bytes,
                    "seconds": moved.seconds,
                }
            )

    def _drain_traffic(self, round_number: int) -> list[dict[str, Any]]:
        """Return the rows of this rank that are not written yet, up to now."""
        self._note_traffic(round_number)
        rows, self._traffic = self._traffic, []
        return rows

    def _write_memory(self, by_rank: Iterable[Sequence[dict[str, Any]]]) -> None:
        records = [record for peaks in by_rank for record in peaks]
        for record in records:
            key = (record["mpi_rank"], record["kind"])
            self.peak_bytes[key] = max(self.peak_bytes.get(key, 0), record["peak_bytes"])
            estimates = self._estimates[record["mpi_rank"]] if self._estimates else {}
            estimate = estimates.get((record["phase"], record["kind"]))
            if estimate is not None:
                record["estimate_bytes"] = estimate
        self.run_folder.append_memory(records)

    def _waited(self, verb: str, seconds: float) -> None:
        self._spans.waited(verb, seconds)
        self.idle_time.waited(verb, seconds)

    def _add_scalars(self, round_number: int, entries: Iterable[Mapping[str, Any]]) -> None:
        if self.scalars is not None:
            self.scalars.add({"round": round_number, **entry} for entry in entries)

    def _show_totals(
        self, round_number: int, num_bytes: Mapping[str, int], memory: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """Let those who look on see a round's bytes and peaks, which have files of their own beside the metrics."""
        if self.scalars is None:
            return
        entries: list[dict[str, Any]] = [{"name": f"bytes/{way}", "value": sent} for way, sent in num_bytes.items()]
        entries += highest_peaks(record for records in memory for record in records if record["round"] == round_number)
        self._add_scalars(round_number, entries)
        self.scalars.flush()

    def _show(self, phase: str) -> None:
        """Rewrite the status that the live display reads, a few times a second at most."""
        if self.is_root and time.monotonic() - self._shown_at > SHOW_SECONDS:
            self._shown_at = time.monotonic()
            latest = {name: values[-1][1] for name, values in self.losses.items()}
            self.run_folder.status(
                {
                    "state": "running",
                    "strategy": self.strategy,
                    "round": self._round_number,
                    "rounds": self.rounds,
                    "phase": phase,
                    "loss": latest,
                }
            )


@contextmanager
def _both(outer: AbstractContextManager[None], inner: AbstractContextManager[None]) -> Iterator[None]:
    with outer, inner:
        yield
