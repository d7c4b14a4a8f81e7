"""The cohort of a round: who of those that are available takes part, by one of five policies.

A model type's clients are chosen among themselves, as many as the cohort gives the type, so that no type is absent by
chance and losses are compared between models of one size. Whatever the policy, a draw costs time that grows with the
cohort and with the clients that reported before, not with the population (see weighted_draw.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.errors import TooFewAvailable
from heterotune.fleet.availability import Always, Availability, looks
from heterotune.fleet.client_records import ClientRecords
from heterotune.fleet.clients import Client, Population, cohort_counts
from heterotune.fleet.oort import exploit, num_exploited, oort_utilities, preferred_seconds
from heterotune.fleet.weighted_draw import Weights, draw_by_weight
from heterotune.randomness import NO_CLIENT, generator


def draw_cohort(
    population: Population,
    cohort: CohortConfig,
    *,
    records: ClientRecords,
    availability: Availability,
    virtual_seconds: float,
    run_seed: int,
    round_number: int,
    counts: Mapping[int, int] | None = None,
    busy: Collection[int] = (),
    fewer_will_do: bool = False,
) -> tuple[Client, ...]:
    """Draw the clients of a round at one moment; a function of its arguments.

    Args:
        population: The whole fleet.
        cohort: How many, and by which policy.
        records: What clients reported in earlier rounds.
        availability: Who can take part when.
        virtual_seconds: The moment.
        run_seed: The run's seed.
        round_number: The round.
        counts: Place of a model type -> clients to draw; None = what the cohort asks for.
        busy: Ids that are not to be drawn, because they are still at work.
        fewer_will_do: Whether to draw those that there are where a model type has too few.

    Returns:
        The cohort in client order.

    Raises:
        TooFewAvailable: If a model type has fewer clients than wanted that are available and not busy, unless fewer do.
    """
    draw = generator(run_seed, round_number, NO_CLIENT, "cohort")
    drawn: list[int] = []
    for place, count in (cohort_counts(population, cohort) if counts is None else counts).items():
        type_draw = _TypeDraw(population, place, records, availability, virtual_seconds, frozenset(busy), draw)
        chosen = type_draw.choose(count, cohort, round_number)
        if len(chosen) < count and not fewer_will_do:
            raise TooFewAvailable(f"{len(chosen)} of the {count} clients of model type {place} that a round needs")
        drawn += chosen.tolist()
    return population.clients(sorted(drawn))


def draw_when_available(
    population: Population,
    cohort: CohortConfig,
    options: AvailabilityOptions,
    *,
    records: ClientRecords,
    availability: Availability,
    virtual_seconds: float,
    run_seed: int,
    round_number: int,
    counts: Mapping[int, int] | None = None,
    busy: Collection[int] = (),
    waits: bool = True,
) -> tuple[tuple[Client, ...], float]:
    """Draw the clients of a round as soon as enough are available, or, where it does not wait, those that are there.

    Arguments are those of `draw_cohort`, and how the server waits.

    Returns:
        The cohort, and the moment at which it was drawn: `virtual_seconds` if there was nothing to wait for.

    Raises:
        TooFewAvailable: If there are too few through a whole period.
    """
    found = ""
    for seconds in looks(availability, options, virtual_seconds):
        try:
            clients = draw_cohort(
                population,
                cohort,
                records=records,
                availability=availability,
                virtual_seconds=seconds,
                run_seed=run_seed,
                round_number=round_number,
                counts=counts,
                busy=busy,
                fewer_will_do=not waits,
            )
        except TooFewAvailable as error:
            found = found or str(error)
        else:
            return clients, seconds
    told = f"round {round_number}: at second {virtual_seconds:g} there are {found}"
    waited = f"and never all of them in the {availability.period_seconds:g} seconds from then on"
    raise TooFewAvailable(f"{told}, {waited}. Lower cohort, or let clients be available longer (availability).")


@dataclass(frozen=True, eq=False)
class _TypeDraw:
    """The choice among one model type's clients. Places are those among the type's clients that have rows."""

    population: Population
    model_type: int
    records: ClientRecords
    availability: Availability
    seconds: float
    busy: frozenset[int]
    draw: np.random.Generator

    def choose(self, count: int, cohort: CohortConfig, round_number: int) -> np.ndarray:
        """Return the ids that a policy chooses; fewer if there are not as many."""
        if cohort.select == "uniform":
            return self._uniform(count)
        if cohort.select == "by_size":
            return self._drawn(self._size_weights(), count)
        if cohort.select == "by_loss":
            return self._drawn(self._loss_weights(), count)
        if cohort.select == "power_of_choice":
            return self._power_of_choice(count, cohort.power_of_choice.candidates)
        return self._oort(count, cohort, round_number)

    def _uniform(self, count: int) -> np.ndarray:
        """All alike. Where only busy ones can be missing it is one call, whose draws runs rely on."""
        if not isinstance(self.availability, Always):
            return self._drawn(self._free, count)
        num_members = len(self.population.ids_of(self.model_type))
        num_busy = sum(self.population.model_type_of(client_id) == self.model_type for client_id in self.busy)
        drawn = self._ids(self.draw.choice(num_members, size=min(count + num_busy, num_members), replace=False))
        return drawn[self._is_free(drawn)][:count]

    def _power_of_choice(self, count: int, factor: float) -> np.ndarray:
        """Draw candidates by size; of these the highest last known losses, those that are not known first.

        Among equals the one drawn first wins. Source: Cho et al. 2022, variant rpow-d.
        """
        candidates = self._drawn(self._size_weights(), int(np.ceil(factor * count)))
        losses = self.records.losses_of(candidates, unknown=np.inf)
        return candidates[np.argsort(-losses, kind="stable")[:count]]

    def _oort(self, count: int, cohort: CohortConfig, round_number: int) -> np.ndarray:
        """Choose known clients by utility, then unknown ones at random; where these are too few, more known ones.

        Those that reported `most_rounds` times are tired: they come last, where nobody else is left.
        """
        options, known, worth = cohort.oort, self.records.of_type(self.model_type), np.empty(0)
        if len(known):
            longest = preferred_seconds(known, self.records.utilities, options)
            worth = oort_utilities(known, options, preferred_seconds=longest, round_number=round_number)
            is_free = self._is_free(known["client_id"])
            known, worth = known[is_free], worth[is_free]
        most_rounds = np.inf if options.most_rounds is None else options.most_rounds
        fresh = np.flatnonzero(known["num_rounds"] < most_rounds)
        wanted = min(num_exploited(count, options, round_number), len(fresh))
        exploited = fresh[exploit(worth[fresh], wanted, options, self.draw)]
        explored = self._drawn(self._unknown_weights, count - wanted)
        chosen, missing = [known["client_id"][exploited], explored], count - wanted - len(explored)
        for others in (np.setdiff1d(fresh, exploited), np.setdiff1d(np.arange(len(known)), fresh)):
            more = others[exploit(worth[others], min(missing, len(others)), options, self.draw)]
            chosen, missing = [*chosen, known["client_id"][more]], missing - len(more)
        return np.concatenate(chosen)

    def _drawn(self, weights_of: Weights, count: int) -> np.ndarray:
        """Draw ids by weight, among those that are free."""
        return self._ids(draw_by_weight(len(self.population.ids_of(self.model_type)), weights_of, count, self.draw))

    def _size_weights(self) -> Weights:
        """Weigh clients by their rows."""
        most = float(self.population.rows_of(self.population.ids_of(self.model_type)).max())
        return lambda places: self._free(places) * self.population.rows_of(self._ids(places)) / most

    def _loss_weights(self) -> Weights:
        """Weigh clients by their last known loss; one that nobody knows counts as the highest known of its type."""
        known = self.records.of_type(self.model_type)["loss"]
        most = float(known.max()) if len(known) and known.max() > 0.0 else 1.0
        return lambda places: self._free(places) * self.records.losses_of(self._ids(places), unknown=most) / most

    def _unknown_weights(self, places: np.ndarray) -> np.ndarray:
        """Weigh clients that never reported, all alike."""
        return self._free(places) * ~self.records.find(self._ids(places))[1]

    def _free(self, places: np.ndarray) -> np.ndarray:
        """Return 1.0 for clients that are available and not busy, 0.0 for the others."""
        return self._is_free(self._ids(places)).astype(np.float64)

    def _is_free(self, client_ids: np.ndarray) -> np.ndarray:
        """Return whether clients are available and not busy."""
        free = self.availability.at(client_ids, self.seconds)
        return free & ~np.isin(client_ids, list(self.busy)) if self.busy else free

    def _ids(self, places: np.ndarray) -> np.ndarray:
        """Return the ids of places; a range is not written out."""
        members = self.population.ids_of(self.model_type)
        return members.start + places if isinstance(members, range) else members[places]
