"""What excludes what among robust rules, limits on updates, differential privacy and secure aggregation.

`PROTECTION_CHECKS` has the form of the table in cross_checks.py: a function and the sections that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from heterotune.config.fault_options import (
    SINGLE_UPDATE_RULES,
    AggregateOptions,
    MisbehaviourOptions,
    UpdateLimits,
    most_attackers,
)
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions

if TYPE_CHECKING:
    from heterotune.config.engine_options import CollectiveConfig
    from heterotune.config.fleet_options import FleetEntry


def cohort_problems(
    cohort_sizes: Mapping[str, int],
    aggregate: AggregateOptions,
    secure_aggregation: SecureAggregationOptions,
    *,
    min_clients: int,
) -> list[str]:
    """Check that a round has enough clients of each model type for what the run asks of them.

    Args:
        cohort_sizes: Model type -> its clients in a full round, clients without data left out.
        aggregate: The rule.
        secure_aggregation: Whether sums are secure.
        min_clients: Clients that a round needs in all.

    Returns:
        One line per problem.
    """
    problems = []
    for name, num_clients in cohort_sizes.items():
        problems += _rule_problems(name, num_clients, aggregate)
        if secure_aggregation.enabled and num_clients < 2:
            text = f"secure_aggregation needs 2 clients of {name} in a round, and there is {num_clients}"
            problems.append(f"{text}: its sum is its update. Raise cohort, or add clients of this type.")
    total = sum(cohort_sizes.values())
    if min_clients > total:
        text = f"cohort.min_clients = {min_clients} is more than the {total} clients of a full round"
        problems.append(f"{text}. Lower it, or raise cohort.")
    return problems


def _rule_problems(name: str, num_clients: int, aggregate: AggregateOptions) -> list[str]:
    """A rule's guarantee has a least number of clients in each model type."""
    if aggregate.rule not in ("trimmed_mean", "krum", "multi_krum"):
        return []
    num_attackers = aggregate.num_attackers(num_clients)
    start = f"aggregate.rule = {aggregate.rule} with attacker_share = {aggregate.attacker_share:g}"
    if num_attackers > most_attackers(aggregate.rule, num_clients):
        text = f"cannot resist {num_attackers} hostile clients among the {num_clients} of {name} in a round"
        return [f"{start} {text}. Raise cohort, lower attacker_share, or choose median."]
    if aggregate.num_chosen(num_clients) > num_clients - num_attackers:
        text = f"can choose {num_clients - num_attackers} of the {num_clients} clients of {name} in a round"
        return [f"{start} {text}, and num_selected = {aggregate.num_selected}. Lower it, or leave it out."]
    return []


def _single_updates_stay_hidden(secure_aggregation: SecureAggregationOptions, aggregate: AggregateOptions) -> list[str]:
    """Secure aggregation reveals sums; some rules need to see the clients one by one."""
    if not secure_aggregation.enabled or aggregate.rule not in SINGLE_UPDATE_RULES:
        return []
    text = f"secure_aggregation hides single updates, and aggregate.rule = {aggregate.rule} compares them"
    return [f"{text}. Choose mean or norm_clipping, or switch secure_aggregation off."]


def _hidden_norms(secure_aggregation: SecureAggregationOptions, updates: UpdateLimits) -> list[str]:
    """A server cannot refuse what it cannot see."""
    if not secure_aggregation.enabled:
        return []
    given = {"max_norm": updates.max_norm, "max_norm_factor": updates.max_norm_factor}
    return [
        f"secure_aggregation hides an update's norm from the server, so updates.{name} = {value:g} cannot be checked. "
        "Drop it; aggregate.rule = norm_clipping bounds every client by itself."
        for name, value in given.items()
        if value is not None
    ]


def _noise_fits_the_mean(privacy: PrivacyOptions, aggregate: AggregateOptions) -> list[str]:
    """The noise is made for the mean of clipped updates; how far one client moves another rule is another question."""
    if privacy.mechanism == "none" or aggregate.rule == "mean":
        return []
    text = f"privacy.mechanism = {privacy.mechanism} bounds a client's part in the mean, not in {aggregate.rule}"
    return [f"{text}. Set aggregate.rule: mean (clip_norm clips already), or mechanism: none."]


def _no_client_decides_about_another(privacy: PrivacyOptions, updates: UpdateLimits) -> list[str]:
    """A limit that moves with the others' updates lets one client change more than its own part of a sum."""
    if privacy.mechanism == "none" or updates.max_norm_factor is None:
        return []
    text = f"updates.max_norm_factor = {updates.max_norm_factor:g} makes one client's part depend on other clients"
    return [
        f"{text}, which privacy.mechanism = {privacy.mechanism} must not. Use max_norm, or nothing: clip_norm clips."
    ]


def _gathered_at_the_root(aggregate: AggregateOptions, collective: CollectiveConfig) -> list[str]:
    """Single updates meet in one place."""
    if aggregate.rule not in SINGLE_UPDATE_RULES or collective.topology == "root":
        return []
    text = f"aggregate.rule = {aggregate.rule} needs all updates of a model type in one place"
    return [f"{text}, and collective.topology = {collective.topology} spreads them. Set topology: root, or rule: mean."]


def _unmasked_at_the_root(secure_aggregation: SecureAggregationOptions, collective: CollectiveConfig) -> list[str]:
    """Masks come off a whole sum in one place."""
    if not secure_aggregation.enabled or collective.topology == "root":
        return []
    text = f"secure_aggregation unmasks a whole sum, and collective.topology = {collective.topology} spreads it"
    return [f"{text}. Set topology: root, or switch secure_aggregation off."]


def _hostile_clients_exist(misbehaviour: MisbehaviourOptions, fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Hostile clients are named by ids of the fleet."""
    byzantine, num_clients = misbehaviour.byzantine, sum(entry.clients for entry in fleet)
    if byzantine is None or byzantine.clients is None or max(byzantine.clients) < num_clients:
        return []
    text = f"misbehaviour.byzantine.clients names client {max(byzantine.clients)}, and the fleet has {num_clients}"
    return [f"{text}. Name ids from 0 to {num_clients - 1}."]


PROTECTION_CHECKS = (
    (_single_updates_stay_hidden, ("secure_aggregation", "aggregate")),
    (_hidden_norms, ("secure_aggregation", "updates")),
    (_noise_fits_the_mean, ("privacy", "aggregate")),
    (_no_client_decides_about_another, ("privacy", "updates")),
    (_gathered_at_the_root, ("aggregate", "collective")),
    (_unmasked_at_the_root, ("secure_aggregation", "collective")),
    (_hostile_clients_exist, ("misbehaviour", "fleet")),
)
