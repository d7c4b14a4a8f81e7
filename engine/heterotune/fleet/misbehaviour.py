"""Which clients go missing, come late or are hostile: drawn from the run's seed, the same on every rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from heterotune.config.fault_options import Byzantine, Interruptions, MisbehaviourOptions, SlowClients
from heterotune.errors import ConfigError
from heterotune.fleet.clients import Client, Population
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator

Absence = Literal["dropped_out", "interrupted", "late"]


def absences(
    cohort: Sequence[Client],
    chosen: MisbehaviourOptions,
    *,
    num_steps: Mapping[int, int],
    run_seed: int,
    round_number: int,
) -> dict[Client, Absence]:
    """Return the clients of a cohort whose updates will not come, and why; in the cohort's order.

    Args:
        cohort: The clients of the round.
        chosen: How many drop out, and how slow they are.
        num_steps: Client id -> local steps.
        run_seed: The run's seed.
        round_number: The round.
    """
    absent: dict[Client, Absence] = {}
    for client in cohort:
        client_id = client.client_id
        if drops_out(client_id, dropout=chosen.dropout, run_seed=run_seed, round_number=round_number):
            absent[client] = "dropped_out"
        elif interruption(client_id, chosen.interrupted, run_seed=run_seed, round_number=round_number) is not None:
            absent[client] = "interrupted"
        elif is_late(client_id, num_steps[client_id], chosen.slow, run_seed=run_seed):
            absent[client] = "late"
    return absent


def drops_out(client_id: int, *, dropout: float, run_seed: int, round_number: int) -> bool:
    """Return True if a client of the cohort is lost in this round before it sends anything: probability `dropout`."""
    return dropout > 0.0 and bool(generator(run_seed, round_number, client_id, "dropout").random() < dropout)


def interruption(client_id: int, chosen: Interruptions | None, *, run_seed: int, round_number: int) -> float | None:
    """Return the share of its steps after which a client of the cohort stops in this round; None = it finishes."""
    if chosen is None:
        return None
    draw = generator(run_seed, round_number, client_id, "interruption")
    if draw.random() >= chosen.probability:
        return None
    return float(draw.uniform(chosen.earliest, chosen.latest))


def done_shares(
    absent: Mapping[Client, Absence], chosen: MisbehaviourOptions, *, run_seed: int, round_number: int
) -> dict[int, float]:
    """Return id of each interrupted client of a round -> the share of its steps that it did."""
    shares = {}
    for client, reason in absent.items():
        if reason == "interrupted":
            share = interruption(client.client_id, chosen.interrupted, run_seed=run_seed, round_number=round_number)
            assert share is not None
            shares[client.client_id] = share
    return shares


def speed_factor(client_id: int, slow: SlowClients, *, run_seed: int) -> float:
    """Return how many times the median's seconds a client needs: log-normal with median 1, fixed for the run."""
    return math.exp(slow.spread * generator(run_seed, NO_ROUND, client_id, "speed").standard_normal())


def simulated_seconds(client_id: int, num_steps: int, slow: SlowClients, *, run_seed: int) -> float:
    """Return the simulated seconds that a client's local steps take."""
    return num_steps * slow.seconds_per_step * speed_factor(client_id, slow, run_seed=run_seed)


def is_late(client_id: int, num_steps: int, slow: SlowClients | None, *, run_seed: int) -> bool:
    """Return True if a client's local steps end after the round's deadline."""
    if slow is None:
        return False
    return simulated_seconds(client_id, num_steps, slow, run_seed=run_seed) > slow.deadline_seconds


def hostile_clients(population: Population, chosen: Byzantine | None, *, run_seed: int) -> frozenset[int]:
    """Return the ids of the hostile clients of a run.

    Args:
        population: The whole fleet.
        chosen: Their share of each model type, drawn once for the run, or their ids; None = nobody.
        run_seed: The run's seed.

    Raises:
        ConfigError: If a client is named that is not in the fleet.
    """
    if chosen is None:
        return frozenset()
    if chosen.clients is not None:
        if unknown := sorted(each for each in chosen.clients if not population.takes_part(each)):
            told = f"misbehaviour.byzantine.clients: {unknown[0]} is no client with rows in this fleet"
            raise ConfigError([f"{told}. Name ids from 0 to {population.num_clients - 1}."])
        return frozenset(chosen.clients)
    assert chosen.share is not None
    hostile: set[int] = set()
    draw = generator(run_seed, NO_ROUND, NO_CLIENT, "byzantine")
    for members in (ids for ids in population.members if len(ids)):
        places = draw.choice(len(members), size=round(chosen.share * len(members)), replace=False)
        hostile.update(int(members[place]) for place in places.tolist())
    return frozenset(hostile)
