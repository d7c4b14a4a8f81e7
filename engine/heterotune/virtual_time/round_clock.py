"""The virtual clock in the round loop: who is drawn, whose updates wait, and who counts when the round ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heterotune.collective.channel import ROOT
from heterotune.config.schema import RunConfig
from heterotune.fleet.clients import Client, Population
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.journal import Journal
from heterotune.round_plan import RoundPlan
from heterotune.uplink import Intake
from heterotune.virtual_time.arrivals import Taken
from heterotune.virtual_time.client_reports import ClientMeter, SideBytes, gather_reports, with_side_bytes
from heterotune.virtual_time.dispatch import Dispatch, dispatch_of
from heterotune.virtual_time.held_updates import HeldUpdates
from heterotune.virtual_time.virtual_clock import VirtualClock, clock_metrics


class RoundClock:
    """One strategy's virtual time on every rank. Without a clock a round takes all that trained, as it comes."""

    def __init__(
        self,
        config: RunConfig,
        population: Population,
        journal: Journal,
        selection: CohortSelection,
        clock: VirtualClock | None,
        meter: ClientMeter | None,
    ) -> None:
        """Begin at 0.

        Args:
            config: The run.
            population: The whole fleet.
            journal: This rank's.
            selection: Draws the cohorts.
            clock: The clock; None = no time passes.
            meter: What clients' steps cost; there is one if there is a clock.
        """
        self._config, self._population, self._journal = config, population, journal
        self._selection, self._clock, self._meter = selection, clock, meter
        self._held = HeldUpdates(journal.run_folder)
        self._dispatch, self._taken = Dispatch({}, {}, frozenset()), Taken(0.0, ())

    @property
    def holds(self) -> bool:
        """Whether updates wait until it is known who counts."""
        return self._clock is not None and self._clock.holds

    def draw(self, round_number: int) -> tuple[Client, ...]:
        """Draw the clients that a round sends out; the same on every rank.

        Time passes while too few are available, but not while others are on their way whose updates will count.
        """
        if self._clock is None:
            return self._selection.draw(round_number)
        away = tuple(flight.client for flight in self._clock.in_flight)
        self._dispatch = dispatch_of(self._population, self._config.cohort, self._config.clock, away)
        clients = self._selection.draw(
            round_number,
            seconds=self._clock.seconds,
            counts=self._dispatch.counts,
            busy=self._dispatch.busy,
            waits=not (away and self._config.clock.takes_stale),
        )
        self._clock.wait_until(self._selection.drawn_seconds)
        return clients

    def intake(self, intake: Intake) -> Intake:
        """Return what takes updates while clients train: what counts them, or what holds them until they arrive."""
        return self._held if self.holds else intake

    def advance(self, plan: RoundPlan, side_bytes: SideBytes) -> RoundPlan:
        """Let time pass until the round ends; returns the plan of those that count in it. Every rank must call this.

        Args:
            plan: The round's, when all have trained; what absent clients downloaded is in the ledger.
            side_bytes: What clients exchange beside updates, and the ledger does not have yet.

        Returns:
            The same plan where all that trained count in their round.
        """
        if self._clock is None or self._meter is None:
            return plan
        reports = gather_reports(plan, self._journal.round_notes(), self._meter, self._journal.channel)
        reports = with_side_bytes(reports, side_bytes)
        began = self._clock.seconds
        self._taken = self._clock.advance(reports, round_number=plan.round_number, wanted=self._dispatch.wanted)
        self._note(self._taken, plan.round_number, self._clock.seconds - began)
        if not self.holds:
            return plan
        self._hand_over_verdicts()
        return self._counted(plan)

    def add_arrived(self, plan: RoundPlan, intakes: Mapping[int, Intake], num_elements: Sequence[int]) -> None:
        """Add this rank's share of the updates that arrived to what counts them. Every rank must call this.

        Args:
            plan: From `advance`.
            intakes: Place of a model type -> what counts its updates.
            num_elements: Length of an update of each model type.
        """
        channel = self._journal.channel
        refused = {flight.client.client_id for flight in self._taken.arrived if not flight.verdict.counts}
        arrived = [client for client in plan.trained if client.client_id not in refused]
        for client in arrived[channel.mpi_rank :: channel.num_ranks]:
            update_P = self._held.read(client.client_id, num_elements[client.model_type])
            intakes[client.model_type].add(update_P.unsqueeze(0), plan.weights_of([client]), [client.client_id])
        channel.barrier()  # all have read theirs
        if channel.mpi_rank == ROOT:
            self._held.forget(client.client_id for client in plan.cohort)

    def client_seconds(self) -> dict[int, float]:
        """Return what each client took whose update the last round got, from its dispatch to the arrival."""
        return {flight.client.client_id: flight.end_seconds - flight.start_seconds for flight in self._taken.arrived}

    def summary(self) -> dict[str, float]:
        """Return what a run's summary says of its virtual time; nothing without a clock."""
        if self._clock is None:
            return {}
        return {"virtual_seconds": self._clock.seconds, "energy_joules": self._clock.energy_joules}

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs beside the updates on their way."""
        return {} if self._clock is None else self._clock.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; {} = the beginning."""
        if self._clock is not None:
            self._clock.restore(state)

    @property
    def held_folder(self) -> Path:
        """Where the updates on their way are."""
        return self._held.folder

    def replace_held(self, saved: Path | None) -> None:
        """Forget all updates on their way and take those of a checkpoint's folder. One process calls this."""
        self._held.replace_with(saved)

    def _note(self, taken: Taken, round_number: int, round_seconds: float) -> None:
        """Write a round's numbers and what became of its cohort (root only)."""
        assert self._clock is not None
        metrics = clock_metrics(self._clock, taken, round_number=round_number, round_seconds=round_seconds)
        self._journal.metrics(round_number, metrics)
        self._journal.timeline(self._clock.take_timeline())

    def _hand_over_verdicts(self) -> None:
        """Let the round have the verdicts on what arrived instead of those on what was sent in it."""
        self._journal.take_verdicts()
        if self._journal.is_root:
            self._journal.judged(flight.verdict for flight in self._taken.arrived)

    def _counted(self, plan: RoundPlan) -> RoundPlan:
        """Return the plan of those whose updates a round takes, with what they weigh."""
        assert self._clock is not None
        reasons: dict[Client, Any] = {flight.client: "late" for flight in self._taken.late}
        reasons |= {flight.client: flight.verdict.reason for flight in self._taken.lost}
        weights = {f.client.client_id: self._clock.staleness(f, plan.round_number) for f in self._taken.arrived}
        arrived = tuple(sorted((f.client for f in self._taken.arrived), key=lambda client: client.client_id))
        return replace(plan, arrived=arrived, absent=reasons, staleness=weights)
