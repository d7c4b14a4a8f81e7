"""One strategy's selection through a run: the time at which rounds draw, and what the server learns from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.errors import CheckpointError
from heterotune.fleet.availability import Availability, make_availability
from heterotune.fleet.client_records import REPORT, ClientRecords, columns_of, of_columns
from heterotune.fleet.clients import Client, Population
from heterotune.fleet.oort import exploration_share, preferred_percentile
from heterotune.fleet.selection import draw_when_available

_PENDING = "pending"


class CohortSelection:
    """The same on every rank. What it keeps grows with the clients that took part, not with the population.

    Attributes:
        records: What clients reported.
        drawn_seconds: Simulated time of the last draw.
    """

    def __init__(
        self,
        population: Population,
        cohort: CohortConfig,
        availability: AvailabilityOptions,
        *,
        run_seed: int,
        hours: Availability | None = None,
    ) -> None:
        """Begin at second 0 with nobody known.

        Args:
            population: The whole fleet.
            cohort: How many clients, and by which policy.
            availability: When they can take part.
            run_seed: The run's seed.
            hours: Of the clients' devices, where `availability` says so.

        Raises:
            ConfigError: If a trace cannot be read or does not fit.
        """
        self._population, self._cohort, self._options, self._run_seed = population, cohort, availability, run_seed
        self.availability = hours or make_availability(availability, population.num_clients, run_seed=run_seed)
        self.records = ClientRecords()
        self.drawn_seconds = -availability.round_seconds  # so that round 1 is at 0
        self._waited_seconds = 0.0
        self._pending = np.empty(0, dtype=REPORT)

    def draw(
        self,
        round_number: int,
        *,
        seconds: float | None = None,
        counts: Mapping[int, int] | None = None,
        busy: Collection[int] = (),
        waits: bool = True,
    ) -> tuple[Client, ...]:
        """Draw the clients of a round; `drawn_seconds` is then the time at which enough were available.

        Args:
            round_number: The round.
            seconds: Simulated time; None = `availability.round_seconds` after the last draw.
            counts: Place of a model type -> clients to draw; None = what the cohort asks for.
            busy: Ids of clients that are still at work.
            waits: Whether to wait for more if too few are available; else those who are there will do.

        Raises:
            TooFewAvailable: If there are too few through a whole period.
        """
        begin = self.drawn_seconds + self._options.round_seconds if seconds is None else seconds
        clients, self.drawn_seconds = draw_when_available(
            self._population,
            self._cohort,
            self._options,
            records=self.records,
            availability=self.availability,
            virtual_seconds=begin,
            run_seed=self._run_seed,
            round_number=round_number,
            counts=counts,
            busy=busy,
            waits=waits,
        )
        self._waited_seconds = self.drawn_seconds - begin
        return clients

    def leaves_after(self, client_id: int, seconds: float) -> float:
        """Return in how many simulated seconds a client that is available becomes unavailable; infinite = never."""
        return float(self.availability.until(np.array([client_id]), seconds)[0]) - seconds

    def observe(
        self,
        reports: np.ndarray,
        *,
        counted: Collection[int],
        keeps_others: bool,
        seconds: Mapping[int, float],
        round_number: int,
    ) -> None:
        """Learn from a round what the clients whose updates count in it report.

        Args:
            reports: Of the clients that trained in this round, of dtype REPORT; the same on every rank.
            counted: Ids of those whose updates count in this round, whenever they trained.
            keeps_others: Whether updates of the others may still come in a later round, and their reports with them.
            seconds: Client id -> simulated seconds that its round took, where they are known.
            round_number: The round.
        """
        waiting = self._pending[~np.isin(self._pending["client_id"], reports["client_id"])]
        reports = np.concatenate([waiting, reports])
        has_come = np.isin(reports["client_id"], list(counted))
        self._pending = reports[~has_come] if keeps_others else self._pending[:0]
        self.records.observe(reports[has_come], seconds=seconds, round_number=round_number)

    def metrics(self, round_number: int) -> list[dict[str, Any]]:
        """Return a round's numbers about its draw; none under a uniform draw of all clients."""
        found: list[dict[str, Any]] = []
        if self._options.is_limited:
            found.append({"name": "cohort/waited_seconds", "value": self._waited_seconds, "unit": "s"})
            found.append({"name": "cohort/drawn_seconds", "value": self.drawn_seconds, "unit": "s"})
        if self._cohort.needs_reports:
            found.append({"name": "clients/seen", "value": len(self.records.seen), "unit": "clients"})
        if self._cohort.select == "oort":
            options, percentile = self._cohort.oort, preferred_percentile(self.records.utilities, self._cohort.oort)
            found.append({"name": "oort/preferred_percentile", "value": percentile, "unit": "percentile"})
            share = exploration_share(options, round_number)
            found.append({"name": "oort/exploration_share", "value": share, "unit": "share"})
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what clients reported, for `restore`; copies."""
        pending = {f"{_PENDING}/{name}": array for name, array in columns_of(self._pending).items()}
        return {**self.records.state(), **pending} if self._cohort.needs_reports else {}

    def restore(self, arrays: Mapping[str, np.ndarray], drawn_seconds: float | None) -> None:
        """Go on from what `arrays` returned and from the time of the last draw; nothing = begin.

        Raises:
            CheckpointError: If it is anything else: anybody may have written it.
        """
        known = {name: array for name, array in arrays.items() if not name.startswith(_PENDING)}
        pending = {name.removeprefix(f"{_PENDING}/"): array for name, array in arrays.items() if name not in known}
        try:
            self.drawn_seconds = self.drawn_seconds if drawn_seconds is None else float(drawn_seconds)
            if not math.isfinite(self.drawn_seconds):
                raise ValueError(f"drawn at second {self.drawn_seconds}")
            self.records.restore(known)
            self._pending = of_columns(pending, REPORT) if arrays else self._pending
        except (TypeError, KeyError, ValueError) as error:
            told = f"the checkpoint's state of the selection of cohorts cannot be read ({error!r:.200})"
            raise CheckpointError(f"{told}. Remove the newest checkpoint to go on from the one before it.") from error
