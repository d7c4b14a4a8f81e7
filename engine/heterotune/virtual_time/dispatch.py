"""Which clients a round sends out, where some are still on their way from earlier rounds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterotune.config.clock_options import ClockOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.fleet.clients import Client, Population, cohort_counts

_TINY = 1e-9
"""A factor times a count may come out this much above an integer: 1.1 * 30 = 33.00000000000001."""


@dataclass(frozen=True)
class Dispatch:
    """How many clients of each model type a round needs and sends out.

    Attributes:
        wanted: Place of a model type -> clients that a round's cohort has; under buffered, clients at work at once.
        counts: Place of a model type -> clients to draw among those that are not on their way.
        busy: Ids of clients on their way, which cannot be drawn.
    """

    wanted: Mapping[int, int]
    counts: Mapping[int, int]
    busy: frozenset[int]


def dispatch_of(
    population: Population, cohort: CohortConfig, options: ClockOptions, in_flight: Sequence[Client]
) -> Dispatch:
    """Return how many clients of each model type a round sends out.

    Args:
        population: The whole fleet.
        cohort: How many take part in a round.
        options: The mode.
        in_flight: Clients on their way.
    """
    if options.concurrency is not None:
        cohort = CohortConfig(clients=options.concurrency)
    wanted = cohort_counts(population, cohort)
    away = Counter(client.model_type for client in in_flight)
    factor = options.over_select or 1.0
    counts = {}
    for place, number in wanted.items():
        num_free = len(population.ids_of(place)) - away[place]
        num_new = number - away[place] if options.concurrency is not None else math.ceil(number * factor - _TINY)
        counts[place] = max(0, min(num_new, num_free))
    return Dispatch(wanted, counts, frozenset(client.client_id for client in in_flight))
