"""When clients can take part: at any time, for a stretch of every day, or in the windows of a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from heterotune.config.availability_options import DAY_SECONDS, HOUR_SECONDS, LOOKS_IN_A_PERIOD, AvailabilityOptions
from heterotune.fleet.availability_trace import read_trace
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

_TINY = 1e-9
"""Looks of a period may come out this much above an integer, which is one look more just before the next period."""


class Availability(Protocol):
    """Who can take part when. The same every `period_seconds`; 0 = it never changes."""

    period_seconds: float

    def at(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return whether clients are available at a simulated time; bool, in the order of their ids."""
        ...

    def until(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return when clients that are available stop being so; float64, infinite = never."""
        ...


@dataclass(frozen=True)
class Always:
    """Everybody at any time."""

    period_seconds: float = 0.0

    def at(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return True for everybody."""
        return np.ones(len(client_ids), dtype=bool)

    def until(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return infinity for everybody."""
        return np.full(len(client_ids), np.inf)


@dataclass(frozen=True, eq=False)
class Diurnal:
    """Each client for one stretch of every period.

    Attributes:
        starts: When each client's stretch begins, in seconds from the period's start, any number of periods off;
            float64, 8 bytes a client of the population.
        stretch_seconds: How long it is.
        period_seconds: After which all repeats.
    """

    starts: np.ndarray
    stretch_seconds: float
    period_seconds: float

    def at(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return whether clients are in their stretch."""
        return self._since(client_ids, seconds) < self.stretch_seconds

    def until(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return when the stretch ends that clients are in."""
        return seconds + self.stretch_seconds - self._since(client_ids, seconds)

    def _since(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return the seconds since clients' stretches began."""
        return np.mod(seconds - self.starts[client_ids], self.period_seconds)


def make_availability(options: AvailabilityOptions, num_clients: int, *, run_seed: int) -> Availability:
    """Return who can take part when.

    Args:
        options: The run's.
        num_clients: Clients of the population.
        run_seed: Draws what is not given: starts, time zones, classes of a trace.

    Raises:
        ConfigError: If a trace cannot be read or does not fit.
    """
    assert options.model != "devices"  # `device_hours` makes these
    if options.model == "always":
        return Always()
    if options.trace is not None:
        return read_trace(options, num_clients, run_seed=run_seed)
    period = options.period_seconds or DAY_SECONDS
    draw = generator(run_seed, NO_ROUND, NO_CLIENT, "availability")
    starts = draw.random(num_clients) * options.start_spread * period
    ahead = np.array(options.time_zones)[draw.integers(len(options.time_zones), size=num_clients)]
    return Diurnal(starts - ahead * HOUR_SECONDS, options.share * period, period)


def looks(availability: Availability, options: AvailabilityOptions, seconds: float) -> Iterator[float]:
    """Yield the times at which a server looks whether enough clients are there: now, then through a whole period.

    Later looks are at multiples of `check_seconds` from each period's start, so that every round looks at the same
    times of the day: who waits a period has looked at all times at which round 1 did, which began with a period.
    """
    yield seconds
    period = availability.period_seconds
    if period == 0.0:
        return
    step = period / LOOKS_IN_A_PERIOD if options.check_seconds == "auto" else options.check_seconds
    num_looks = max(1, math.ceil(period / step - _TINY))
    first = int(seconds // period)
    for number in range(first, first + 2):
        for look in range(num_looks):
            later = number * period + look * step
            if seconds < later <= seconds + period:
                yield later
