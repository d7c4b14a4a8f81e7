"""What excludes what among modes of the virtual clock, federated methods and protections.

`CLOCK_CHECKS` has the form of the table in cross_checks.py: a function and the sections that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heterotune.config.fault_options import SINGLE_UPDATE_RULES, AggregateOptions, MisbehaviourOptions
from heterotune.config.methods import METHODS
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions

if TYPE_CHECKING:
    from heterotune.config.clock_options import ClockOptions
    from heterotune.config.cohort_options import CohortConfig
    from heterotune.config.device_options import DevicesConfig
    from heterotune.config.fleet_options import FleetEntry
    from heterotune.config.heterotune_options import HeterotuneOptions

_NOT_STALE = {
    "scaffold": "keeps the server's control variate equal to the mean of the clients', which old updates break",
    "fedrolex": "lets the window that clients train roll on every round, so that an old update is of another window",
    "fedproto": "replaces each class's mean feature by that of the newest models, so that old ones would come back",
}
"""Methods beside those of single updates that mean nothing with updates of older values, and why."""


def _devices_are_known(clock: ClockOptions, devices: DevicesConfig) -> list[str]:
    """Time comes from devices."""
    if not clock.is_on or devices.are_given:
        return []
    text = f"clock.mode = {clock.mode} needs devices: nothing says how fast clients are"
    return [f"{text}. Add the section devices, or set mode: none."]


def _one_notion_of_speed(clock: ClockOptions, misbehaviour: MisbehaviourOptions) -> list[str]:
    """A client is late by one clock only."""
    if not clock.is_on or misbehaviour.slow is None:
        return []
    text = f"misbehaviour.slow gives clients other seconds than clock.mode = {clock.mode}"
    return [f"{text}. Drop slow; clock.mode: deadline has a deadline, and devices have spreads."]


def _clients_have_time(clock: ClockOptions, strategy: str, compare_with: tuple[str, ...]) -> list[str]:
    """Where all data is in one place, no client's time passes."""
    if not clock.is_on or "centralised" not in (strategy, *compare_with):
        return []
    text = f"clock.mode = {clock.mode} counts clients' seconds, and strategy centralised trains in one place"
    return [f"{text}. Leave one of them out."]


def _concurrency_fits(clock: ClockOptions, fleet: tuple[FleetEntry, ...]) -> list[str]:
    """A client in flight is not drawn again."""
    num_clients = sum(entry.clients for entry in fleet)
    if clock.concurrency is None or clock.concurrency <= num_clients:
        return []
    start = f"clock.concurrency = {clock.concurrency} is more than the fleet's {num_clients} clients"
    return [f"{start}. Lower it, or add clients to fleet."]


def _nothing_secret_is_late(clock: ClockOptions, secure_aggregation: SecureAggregationOptions) -> list[str]:
    """Masks are agreed on by those who send in one round."""
    if clock.mode in ("none", "synchronous") or not secure_aggregation.enabled:
        return []
    text = f"secure_aggregation masks a sum over a round's whole cohort, and clock.mode = {clock.mode} takes a part"
    return [f"{text} of it. Set clock.mode: synchronous, or switch secure_aggregation off."]


def _privacy_knows_who_is_drawn(clock: ClockOptions, privacy: PrivacyOptions) -> list[str]:
    """The account is of a cohort that is drawn anew from all clients in every round."""
    is_drawn = clock.mode in ("none", "synchronous") or (clock.mode == "deadline" and clock.late == "drop")
    if is_drawn or privacy.mechanism == "none":
        return []
    way = "deadline with late = accept" if clock.mode == "deadline" else clock.mode
    text = f"privacy.mechanism = {privacy.mechanism} counts on cohorts that are drawn by chance alone"
    return [f"{text}, and clock.mode = {way} is not. Set mode: synchronous, or late: drop, or mechanism: none."]


def _lost_clients_change_nothing(clock: ClockOptions, strategy: str, compare_with: tuple[str, ...]) -> list[str]:
    """Where updates are dropped by design, round after round, what their clients keep must not count on them."""
    if clock.mode not in ("deadline", "over_selection") or "scaffold" not in (strategy, *compare_with):
        return []
    text = f"clock.mode = {clock.mode} drops updates, and strategy scaffold keeps the variates of clients whose updates"
    return [f"{text} were dropped, so that the server's is not their mean. Set mode: synchronous, or leave one out."]


def _stale_updates_mean_something(
    clock: ClockOptions,
    strategy: str,
    compare_with: tuple[str, ...],
    heterotune: HeterotuneOptions,
    aggregate: AggregateOptions,
) -> list[str]:
    """An update of older common values is added to the newest ones: that must make sense."""
    if not clock.takes_stale:
        return []
    way = f"clock.mode = {clock.mode}" + (" with late = accept" if clock.mode == "deadline" else "")
    problems = []
    for name in (strategy, *compare_with):
        needs = heterotune.needs if name == "heterotune" else METHODS[name].needs
        reason = "combines single updates that began from one state" if needs == "single updates" else None
        if name == "heterotune" and heterotune.realign_every:
            reason = "aligns its head anew (realign_every), so that an old update is in other coordinates"
        if reason := _NOT_STALE.get(name, reason):
            problems.append(f"{way} takes updates of older rounds, and strategy {name} {reason}. Leave one out.")
    if aggregate.rule in SINGLE_UPDATE_RULES:
        text = f"{way} weighs updates by their staleness, and aggregate.rule = {aggregate.rule} has no weights"
        problems.append(f"{text}. Set rule: mean or norm_clipping, or leave one out.")
    return problems


def _cohort_is_given_once(clock: ClockOptions, cohort: CohortConfig) -> list[str]:
    """Under buffered, concurrency says how many clients are at work."""
    if clock.concurrency is None or (cohort.clients is None and cohort.fraction == 1.0):
        return []
    key = "fraction" if cohort.clients is None else "clients"
    text = f"cohort.{key} = {getattr(cohort, key):g} does nothing under clock.mode = {clock.mode}"
    return [f"{text}. Drop it; clock.concurrency says how many clients are at work."]


def _a_step_has_enough(clock: ClockOptions, cohort: CohortConfig) -> list[str]:
    """A step of the server takes as many updates as its buffer has."""
    if clock.buffer is None or cohort.min_clients <= clock.buffer:
        return []
    text = f"cohort.min_clients = {cohort.min_clients} is more than clock.buffer = {clock.buffer}"
    return [f"{text}, so that no step would change anything. Lower it, or raise clock.buffer."]


CLOCK_CHECKS = (
    (_devices_are_known, ("clock", "devices")),
    (_one_notion_of_speed, ("clock", "misbehaviour")),
    (_clients_have_time, ("clock", "strategy", "compare_with")),
    (_concurrency_fits, ("clock", "fleet")),
    (_nothing_secret_is_late, ("clock", "secure_aggregation")),
    (_privacy_knows_who_is_drawn, ("clock", "privacy")),
    (_lost_clients_change_nothing, ("clock", "strategy", "compare_with")),
    (_stale_updates_mean_something, ("clock", "strategy", "compare_with", "heterotune", "aggregate")),
    (_cohort_is_given_once, ("clock", "cohort")),
    (_a_step_has_enough, ("clock", "cohort")),
)
