"""How many ranks make sense for a run on one machine."""

from __future__ import annotations

from heterotune.config.clock_options import ClockOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError

MAX_RANKS_PER_CORE = 4


def cohort_size(fleet: tuple[FleetEntry, ...], cohort: CohortConfig, clock: ClockOptions) -> int:
    """Return the clients that a round sends out if all of them have data; as `virtual_time.dispatch` counts them."""
    if clock.concurrency is not None:
        return clock.concurrency
    if cohort.clients is not None:
        return cohort.clients
    fraction = cohort.fraction if cohort.fraction is not None else 1.0
    return sum(max(1, round(fraction * entry.clients)) for entry in fleet)


def idle_ranks_problem(config: RunConfig, num_ranks: int, what: str) -> list[str]:
    """Return a line if some ranks could never train, else nothing.

    Args:
        config: The run.
        num_ranks: Wanted ranks.
        what: The option and its value, as the user gave them.
    """
    num_clients = cohort_size(config.fleet, config.cohort, config.clock)
    if num_ranks <= num_clients:
        return []
    text = f"{what} is more than the {num_clients} clients of a round's cohort, so some ranks would never train"
    return [f"{text}. Lower it, or raise cohort."]


def check_num_ranks(config: RunConfig, num_ranks: int, *, num_cores: int, oversubscribe: bool) -> None:
    """Refuse more ranks than there is work or cores for.

    Args:
        config: The run.
        num_ranks: Wanted ranks.
        num_cores: Cores that this process may use.
        oversubscribe: The user insists on more ranks than cores.

    Raises:
        ConfigError: With every rule that is broken.
    """
    problems = []
    if num_ranks < 1:
        problems.append(f"--ranks = {num_ranks} is less than 1. Give at least 1.")
    problems += idle_ranks_problem(config, num_ranks, f"--ranks = {num_ranks}")
    if num_ranks > MAX_RANKS_PER_CORE * num_cores and not oversubscribe:
        problems.append(
            f"--ranks = {num_ranks} is more than {MAX_RANKS_PER_CORE} ranks for each of the {num_cores} cores here. "
            "Lower it, or add --oversubscribe."
        )
    if problems:
        raise ConfigError(problems)
