"""The virtual clock against servers that are written as loops over a queue of events, as the papers tell them.

FedBuff: Nguyen et al. (2022), algorithm 1, but for clients that start at a server step only. Deadlines and
over-selection: Bonawitz et al. (2019). Bytes, operations and rates are such that every second is exact in float64, so
times must be equal, not close; and what is added up is recomputed with NumPy integers.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from heterotune.aggregation.exact import ExactSum
from heterotune.aggregation.quarantine import Verdict
from heterotune.config.clock_options import ClockOptions
from heterotune.fleet.clients import Client
from heterotune.fleet.devices import Device
from heterotune.round_plan import RoundPlan
from heterotune.virtual_time.client_time import ClientWork
from heterotune.virtual_time.virtual_clock import Report, VirtualClock

NUM_CLIENTS, ROUNDS, COHORT = 14, 12, 6
CLIENTS = [Client(number, number % 2, 3 + number) for number in range(NUM_CLIENTS)]
DEVICES = [Device(f"d{n}", 2.0 ** (n % 5), 1, 2.0 ** (n % 3), 2.0 ** -(n % 4), 0.25 * n) for n in range(NUM_CLIENTS)]
WORK = np.random.default_rng(7).integers(1, 9, size=(ROUNDS, NUM_CLIENTS, 3)).tolist()
UPDATES = np.random.default_rng(8).normal(size=(ROUNDS, NUM_CLIENTS, 5)).astype(np.float32)
LOST = np.random.default_rng(9).random((ROUNDS, NUM_CLIENTS)) < 0.15

Event = tuple[float, int, int, bool]  # when, who, dispatched in which round, whether it is a drop-out
Step = tuple[float, list[tuple[int, int]]]  # when it ends, who counts and from which round


def seconds(client: int, number: int) -> float:
    """What a client's part in a round takes, by the formula in docs/virtual-time.md."""
    device, (down, flops, up) = DEVICES[client], WORK[number][client]
    whole = device.latency_seconds + down / device.down_bytes_per_second + flops / device.flops_per_second
    return whole if LOST[number, client] else whole + up / device.up_bytes_per_second


def events_of(now: float, chosen: list[int], number: int) -> list[Event]:
    return [(now + seconds(client, number), client, number, bool(LOST[number, client])) for client in chosen]


def lowest_free(queue: list[Event], count: int) -> list[int]:
    """The tests' draw: the smallest numbers."""
    return sorted(set(range(NUM_CLIENTS)) - {client for _, client, *_ in queue})[:count]


def fedbuff(concurrency: int, buffer: int) -> Iterator[Step]:
    queue, now = [], 0.0
    for number in range(ROUNDS):
        for event in events_of(now, lowest_free(queue, concurrency - len(queue)), number):
            heapq.heappush(queue, event)
        taken = []
        while len(taken) < buffer and queue:
            now, client, begun, is_lost = heapq.heappop(queue)
            taken += [] if is_lost else [(client, begun)]
        yield now, taken


def deadline(limit: float, *, accept: bool) -> Iterator[Step]:
    queue, now = [], 0.0
    for number in range(ROUNDS):
        queue += events_of(now, lowest_free(queue, COHORT), number)
        queue.sort()
        end, taken = now + limit, []
        while queue and queue[0][0] <= end:
            now, client, begun, is_lost = queue.pop(0)
            taken += [] if is_lost else [(client, begun)]
        now, queue = (end, queue if accept else []) if queue else (now, [])
        yield now, taken


def over_selection(wanted: dict[int, int], num_drawn: int) -> Iterator[Step]:
    now = 0.0
    for number in range(ROUNDS):
        queue, taken, missing = sorted(events_of(now, list(range(num_drawn)), number)), [], Counter(wanted)
        while queue and +missing:
            when, client, begun, is_lost = queue.pop(0)
            place = CLIENTS[client].model_type
            left = [each for each in queue if CLIENTS[each[1]].model_type == place]
            if missing[place] > 0:
                taken += [] if is_lost else [(client, begun)]
                missing[place] -= not is_lost
                now = when
            if not left and missing[place] > 0:
                missing[place] = 0  # nobody is left to wait for
        yield now, taken


def clock_steps(options: ClockOptions, num_drawn: int, wanted: dict[int, int]) -> Iterator[tuple[Step, np.ndarray]]:
    """The same through the engine's clock, plan and exact sums."""
    clock = VirtualClock(options, lambda client_id, model_type: DEVICES[client_id])
    for number in range(ROUNDS):
        away = [(0.0, flight.client.client_id, 0, False) for flight in clock.in_flight]
        count = num_drawn - len(away) if options.mode == "buffered" else num_drawn
        reports = [report(client, number) for client in lowest_free(away, count)]
        taken = clock.advance(reports, round_number=number, wanted=wanted)
        weights = {flight.client.client_id: clock.staleness(flight, number) for flight in taken.arrived}
        plan = RoundPlan(number, (), (), arrived=tuple(flight.client for flight in taken.arrived), staleness=weights)
        exact = {place: ExactSum(5) for place in (0, 1)}
        for flight in taken.arrived:
            row = torch.from_numpy(UPDATES[flight.round_number, flight.client.client_id]).unsqueeze(0)
            exact[flight.client.model_type].add(row, plan.weights_of([flight.client]), [flight.client.client_id])
        who = [(flight.client.client_id, flight.round_number) for flight in taken.arrived]
        yield (clock.seconds, who), np.stack([exact[place].sum_P.numpy() for place in (0, 1)])


def report(client: int, number: int) -> Report:
    down, flops, up = WORK[number][client]
    is_lost = bool(LOST[number, client])
    verdict = Verdict(client, "dropped_out" if is_lost else None)
    return Report(CLIENTS[client], ClientWork(down, flops, None if is_lost else up), verdict)


def recomputed(step: Step, number: int) -> np.ndarray:
    """Σ round(n_k / N * 1 / sqrt(1 + age) * u_k * 2^50), from the definition."""
    sums = np.zeros((2, 5), dtype=np.int64)
    for client, begun in step[1]:
        place = CLIENTS[client].model_type
        total = sum(CLIENTS[other].num_rows for other, _ in step[1] if CLIENTS[other].model_type == place)
        weight = CLIENTS[client].num_rows / total * (1 / math.sqrt(1 + number - begun))
        sums[place] += np.rint(UPDATES[begun, client].astype(np.float64) * (weight * 2.0**50)).astype(np.int64)
    return sums


CASES = [
    (ClockOptions(mode="buffered", concurrency=8, buffer=3), 8, {}, lambda: fedbuff(8, 3)),
    (ClockOptions(mode="buffered", concurrency=8, buffer=1), 8, {}, lambda: fedbuff(8, 1)),
    (ClockOptions(mode="deadline", deadline_seconds=9.5), COHORT, {}, lambda: deadline(9.5, accept=False)),
    (
        ClockOptions(mode="deadline", deadline_seconds=6.25, late="accept"),
        COHORT,
        {},
        lambda: deadline(6.25, accept=True),
    ),
    (
        ClockOptions(mode="over_selection", over_select=1.5),
        9,
        {0: 3, 1: 3},
        lambda: over_selection({0: 3, 1: 3}, 9),
    ),
    (ClockOptions(mode="synchronous"), COHORT, {}, lambda: deadline(math.inf, accept=False)),
]


@pytest.mark.parametrize(("options", "num_drawn", "wanted", "server"), CASES)
def test_the_clock_does_what_a_queue_of_events_does(options, num_drawn, wanted, server):
    ages = set()
    for number, (expected, (found, sums)) in enumerate(
        zip(server(), clock_steps(options, num_drawn, wanted), strict=True)
    ):
        assert found == expected, number
        assert np.array_equal(sums, recomputed(expected, number)), number
        ages |= {number - begun for _, begun in expected[1]}
    assert len(ages) > 1 if options.takes_stale else ages == {0}
