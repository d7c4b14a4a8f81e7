"""What a federated method's server needs of a round, against how the run sums, hides and combines updates.

`METHOD_CHECKS` has the form of the table in cross_checks.py: a function and the sections that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heterotune.config.fault_options import AggregateOptions, MisbehaviourOptions
from heterotune.config.methods import Needs, needs_of
from heterotune.config.privacy_options import PrivacyOptions, SecureAggregationOptions

if TYPE_CHECKING:
    from heterotune.config.cohort_options import CohortConfig
    from heterotune.config.engine_options import CollectiveConfig
    from heterotune.config.heterotune_options import HeterotuneOptions


_NEW_COORDINATES = ("flora", "flexlora", "fedrolex")
_WINDOWED = ("hetlora", "heterofl", "fedrolex")


def _wire_fits(
    strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions, collective: CollectiveConfig
) -> list[str]:
    """What a wire remembers, or does to neighbours, must fit what a tensor's elements mean."""
    problems, methods = [], (strategy, *compare_with)
    for name in methods:
        when = "every round" if name in _NEW_COORDINATES else None
        if name == "heterotune" and heterotune.realign_every:
            when = f"where its head is aligned anew (realign_every = {heterotune.realign_every})"
        if when and collective.wire == "topk":
            text = f"{name} gives a client's elements a new meaning {when}, so what topk still owes is lost"
            problems.append(f"collective.wire = topk: strategy {text}. Set wire: fp32, bf16 or int8.")
        if name in _WINDOWED and collective.picked_wire_down == "int8":
            text = f"strategy {name} gives model types different parts of a tensor, which int8 would round differently"
            problems.append(f"collective.wire_down = int8: {text}. Set wire_down: fp32 or bf16.")
    return problems


def _whole_at_the_root(
    strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions, collective: CollectiveConfig
) -> list[str]:
    """Slices are enough only for what works element by element."""
    if collective.topology == "root":
        return []
    text = f"and collective.topology = {collective.topology} spreads them. Set topology: root, or another strategy."
    needs = _needs((strategy, *compare_with), heterotune)
    return [f"strategy {name} needs {need} in one place, {text}" for name, need in needs.items() if need != "slices"]


def _single_updates_are_seen(
    strategy: str,
    compare_with: tuple[str, ...],
    heterotune: HeterotuneOptions,
    aggregate: AggregateOptions,
    privacy: PrivacyOptions,
    secure_aggregation: SecureAggregationOptions,
) -> list[str]:
    """A method that combines single updates itself leaves no sum for others to protect."""
    protections = {
        f"aggregate.rule = {aggregate.rule}": aggregate.rule != "mean",
        f"privacy.mechanism = {privacy.mechanism}": privacy.mechanism != "none",
        "secure_aggregation": secure_aggregation.enabled,
    }
    needs = _needs((strategy, *compare_with), heterotune)
    return [
        f"strategy {name} combines single updates itself, so {what} cannot act on their sum. Leave one of them out."
        for name, need in needs.items()
        for what, is_asked in protections.items()
        if need == "single updates" and is_asked
    ]


def _one_place(
    strategy: str,
    compare_with: tuple[str, ...],
    cohort: CohortConfig,
    aggregate: AggregateOptions,
    misbehaviour: MisbehaviourOptions,
    privacy: PrivacyOptions,
    secure_aggregation: SecureAggregationOptions,
) -> list[str]:
    """Where all data is in one place, nobody is missing, hostile, or to be hidden."""
    if "centralised" not in (strategy, *compare_with):
        return []
    asked = {
        f"cohort.min_clients = {cohort.min_clients}": cohort.min_clients > 1,
        "aggregate": aggregate != AggregateOptions(),
        "misbehaviour": misbehaviour != MisbehaviourOptions(),
        f"privacy.mechanism = {privacy.mechanism}": privacy.mechanism != "none",
        "secure_aggregation": secure_aggregation.enabled,
    }
    text = "is about single clients, and strategy centralised trains in one place. Leave one of them out."
    return [f"{what} {text}" for what, is_asked in asked.items() if is_asked]


def _prototypes_stay_means(
    strategy: str,
    compare_with: tuple[str, ...],
    collective: CollectiveConfig,
    aggregate: AggregateOptions,
    privacy: PrivacyOptions,
) -> list[str]:
    """FedProto divides a sum of features by a count of clients: both must mean that when they arrive."""
    if "fedproto" not in (strategy, *compare_with):
        return []
    asked = {
        "collective.wire = topk": collective.wire == "topk",
        f"aggregate.rule = {aggregate.rule}": aggregate.rule not in ("mean", "norm_clipping"),
        f"privacy.mechanism = {privacy.mechanism}": privacy.mechanism != "none",
    }
    text = "would change sums that strategy fedproto divides by one another. Leave one of them out."
    return [f"{what} {text}" for what, is_asked in asked.items() if is_asked]


def _something_travels(strategy: str, compare_with: tuple[str, ...], privacy: PrivacyOptions) -> list[str]:
    """Noise on a sum of nothing protects nobody."""
    if privacy.mechanism == "none" or "local_only" not in (strategy, *compare_with):
        return []
    text = f"privacy.mechanism = {privacy.mechanism} is noise on sums, and strategy local_only sends nothing"
    return [f"{text}. Leave one of them out."]


def _needs(methods: tuple[str, ...], heterotune: HeterotuneOptions) -> dict[str, Needs]:
    """Return what each method of a run needs; only heterotune's options change that."""
    return {name: needs_of(name, heterotune if name == "heterotune" else None) for name in methods}


METHOD_CHECKS = (
    (_prototypes_stay_means, ("strategy", "compare_with", "collective", "aggregate", "privacy")),
    (_something_travels, ("strategy", "compare_with", "privacy")),
    (
        _one_place,
        ("strategy", "compare_with", "cohort", "aggregate", "misbehaviour", "privacy", "secure_aggregation"),
    ),
    (_whole_at_the_root, ("strategy", "compare_with", "heterotune", "collective")),
    (
        _single_updates_are_seen,
        ("strategy", "compare_with", "heterotune", "aggregate", "privacy", "secure_aggregation"),
    ),
    (_wire_fits, ("strategy", "compare_with", "heterotune", "collective")),
)
