"""Whose updates a round takes: pure decisions about clients on their way, by virtual time, ties by client id.

A flight is a client's part in a round, from its dispatch until its update arrives or the client drops out. Every mode
looks at the flights that are under way and says when the round ends, which ends of flights lie in it, and which flights
go on. Modes differ in nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from heterotune.aggregation.quarantine import Verdict
from heterotune.config.clock_options import ClockOptions
from heterotune.fleet.clients import Client

_AFTER_ALL = float("inf")
"""In the place of a client id: after every client."""


@dataclass(frozen=True)
class Flight:
    """A client's part in a round.

    Attributes:
        client: Who.
        round_number: The round in which it was dispatched; it trained from the common values before that.
        start_seconds: When it was dispatched.
        end_seconds: When its update arrives, or when the client drops out.
        is_lost: Whether the client drops out.
        verdict: Whether its update counts if it is taken.
    """

    client: Client
    round_number: int
    start_seconds: float
    end_seconds: float
    is_lost: bool
    verdict: Verdict

    @property
    def place_in_time(self) -> tuple[float, int]:
        """Its place among all ends of flights."""
        return self.end_seconds, self.client.client_id


@dataclass(frozen=True)
class Taken:
    """What a round made of the flights under way.

    Attributes:
        end_seconds: When the round ends.
        arrived: Flights whose updates the round takes, by time of arrival.
        lost: Flights of clients that dropped out, by time.
        late: Flights that nobody waits for.
        in_flight: Flights that go on, by time.
    """

    end_seconds: float
    arrived: tuple[Flight, ...]
    lost: tuple[Flight, ...] = ()
    late: tuple[Flight, ...] = ()
    in_flight: tuple[Flight, ...] = ()


def take(flights: Iterable[Flight], options: ClockOptions, *, now_seconds: float, wanted: Mapping[int, int]) -> Taken:
    """Decide what a round takes.

    Args:
        flights: All that are under way, those of this round's cohort among them.
        options: The mode.
        now_seconds: When the round began.
        wanted: Place of a model type -> updates that over_selection waits for.
    """
    in_time = sorted(flights, key=lambda flight: flight.place_in_time)
    all_ended = max((flight.end_seconds for flight in in_time), default=now_seconds)
    if options.mode == "buffered":
        assert options.buffer is not None
        return _until(_nth_arrival(in_time, options.buffer), in_time, now_seconds)
    if options.mode == "over_selection":
        return _first_of_each_type(in_time, wanted, now_seconds)
    if options.mode == "deadline":
        assert options.deadline_seconds is not None
        end_seconds = min(all_ended, now_seconds + options.deadline_seconds)
        return _until((end_seconds, _AFTER_ALL), in_time, now_seconds, is_dropped=options.late == "drop")
    return _until((all_ended, _AFTER_ALL), in_time, now_seconds)


def _until(
    last: tuple[float, float], in_time: Sequence[Flight], now_seconds: float, *, is_dropped: bool = False
) -> Taken:
    """Take what ends by a place in time; what comes later is late and dropped, or goes on."""
    end_seconds = max(last[0], now_seconds)  # who waited for clients to be available finds updates that came meanwhile
    ended = [flight for flight in in_time if flight.place_in_time <= last]
    after = tuple(flight for flight in in_time if flight.place_in_time > last)
    lost = tuple(flight for flight in ended if flight.is_lost)
    arrived = tuple(flight for flight in ended if not flight.is_lost)
    if not is_dropped:
        return Taken(end_seconds, arrived, lost, (), after)
    lost += tuple(flight for flight in after if flight.is_lost)  # whether late or lost: nobody sees it any more
    return Taken(end_seconds, arrived, lost, tuple(flight for flight in after if not flight.is_lost), ())


def _nth_arrival(in_time: Sequence[Flight], wanted: int) -> tuple[float, float]:
    """Return the place in time of the arrival that fills a buffer; of the last end if there are too few arrivals."""
    arrivals = [flight.place_in_time for flight in in_time if not flight.is_lost]
    if len(arrivals) >= wanted:
        return arrivals[wanted - 1]
    return (in_time[-1].end_seconds if in_time else 0.0), _AFTER_ALL


def _first_of_each_type(in_time: Sequence[Flight], wanted: Mapping[int, int], now_seconds: float) -> Taken:
    """Take the first arrivals of each model type; the round ends with the last of these, or when nobody is left."""
    num_taken: Counter[int] = Counter()
    arrived, late = [], []
    for flight in in_time:
        if not flight.is_lost:
            place = flight.client.model_type
            (arrived if num_taken[place] < wanted[place] else late).append(flight)
            num_taken[place] += 1
    lost = tuple(flight for flight in in_time if flight.is_lost)
    short = {place for place, number in wanted.items() if num_taken[place] < number}
    waited_for = arrived + [flight for flight in lost if flight.client.model_type in short]
    end_seconds = max((flight.end_seconds for flight in waited_for), default=now_seconds)
    return Taken(end_seconds, tuple(arrived), lost, tuple(late))
