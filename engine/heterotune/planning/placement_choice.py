"""`placement: auto`: the one with which the run fits, and of two that fit the one with the shorter round."""

from __future__ import annotations

from dataclasses import replace

from heterotune.fleet.placement import PlacementKind
from heterotune.planning.fitting import lay_out
from heterotune.planning.setting import Setting
from heterotune.planning.time_model import round_time

MARGIN = 0.02
"""Dedicated ranks must promise a round that is shorter by this share: the estimate is no better than that."""


def with_placement(setting: Setting, kind: PlacementKind) -> Setting:
    """Return a setting with a placement."""
    return replace(setting, config=setting.config.model_copy(update={"placement": kind}))


def pick_placement(setting: Setting) -> PlacementKind:
    """Return the placement that fits, or the faster one if both do or neither does; one rank has only one."""
    if setting.cluster.num_ranks == 1 or len(setting.shapes) == 1:
        return "spread"
    found = {}
    for kind in ("spread", "dedicated"):
        each = with_placement(setting, kind)
        layout = lay_out(each)
        found[kind] = layout.fits, round_time(each, layout.by_rank).seconds
    (spread_fits, spread_seconds), (dedicated_fits, dedicated_seconds) = found["spread"], found["dedicated"]
    if spread_fits != dedicated_fits:
        return "spread" if spread_fits else "dedicated"
    return "dedicated" if dedicated_seconds < spread_seconds * (1 - MARGIN) else "spread"


def resolved(setting: Setting) -> Setting:
    """Return a setting whose placement is picked, if the run says auto."""
    return setting if setting.config.placement != "auto" else with_placement(setting, pick_placement(setting))
