"""What is asked of the head between rounds must do something, and no harm, or nobody should begin with it.

A run that has begun goes on as it was, also with fewer rounds.

`DISTILLATION_CHECKS` has the form of the table in cross_checks.py: a function and the sections that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heterotune.config.fleet_options import FleetEntry
    from heterotune.config.heterotune_options import HeterotuneOptions
    from heterotune.config.method_options import LocalConfig


def _lesson_suits_the_rate(
    strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions, local: LocalConfig
) -> list[str]:
    """The server's lesson is AdamW's, at a share of the clients' rate, which says nothing under another optimiser."""
    is_given = heterotune.distill_steps not in (0, "auto")
    if local.optimizer == "adamw" or not (is_given and _distills(strategy, compare_with, heterotune)):
        return []
    text = f"heterotune.distill_steps = {heterotune.distill_steps} are steps of AdamW at a share of local.learning_rate"
    other = f"which is a rate for local.optimizer = {local.optimizer}"
    return [f"{text}, {other}. Set distill_steps to auto or 0, or local.optimizer to adamw."]


def _heads_differ(
    strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions, fleet: tuple[FleetEntry, ...]
) -> list[str]:
    """Who shares one head has nobody to learn from."""
    families = [entry.family for entry in fleet]
    if not _distills(strategy, compare_with, heterotune) or heterotune.num_heads(families) > 1:
        return []
    text = f"heterotune.distill_every = {heterotune.distill_every} lets model types learn from one another"
    if len(families) == 1:
        return [f"{text}, and the fleet has one. Set distill_every to auto or 0, or add a model type."]
    shared = "under head_scope = width they share one head, where that undoes what sharing gained"
    return [f"{text}, but all are siblings: {shared}. Set head_scope: type, or distill_every to auto or 0."]


def _rounds_suffice(
    strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions, rounds: int
) -> list[str]:
    """What is done after every so many rounds is done once at least."""
    if "heterotune" not in (strategy, *compare_with):
        return []
    ways_out = {"distill_every": "auto or 0", "realign_every": "0"}
    return [
        f"heterotune.{key} = {every} is more than rounds = {rounds}, so it would do nothing. Lower it, raise rounds, "
        f"or set it to {way_out}."
        for key, way_out in ways_out.items()
        if (every := getattr(heterotune, key)) != "auto" and every > rounds
    ]


def _distills(strategy: str, compare_with: tuple[str, ...], heterotune: HeterotuneOptions) -> bool:
    """Whether model types are to learn from one another, as far as that is settled."""
    return "heterotune" in (strategy, *compare_with) and heterotune.distill_every not in (0, "auto")


DISTILLATION_CHECKS = (
    (_lesson_suits_the_rate, ("strategy", "compare_with", "heterotune", "local")),
    (_heads_differ, ("strategy", "compare_with", "heterotune", "fleet")),
    (_rounds_suffice, ("strategy", "compare_with", "heterotune", "rounds")),
)
