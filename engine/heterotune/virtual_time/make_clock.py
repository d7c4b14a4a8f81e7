"""A run's virtual clock, from its sections `clock` and `devices`."""

from __future__ import annotations

from collections.abc import Sequence

from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.training_flops import training_cost
from heterotune.federation import Federation
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.fleet.devices import make_devices
from heterotune.journal import Journal
from heterotune.virtual_time.client_reports import ClientMeter
from heterotune.virtual_time.round_clock import RoundClock
from heterotune.virtual_time.virtual_clock import VirtualClock


def make_round_clock(
    federation: Federation, layouts: Sequence[AdapterLayout], journal: Journal, selection: CohortSelection
) -> RoundClock:
    """Return a strategy's clock at the beginning of a run.

    Args:
        federation: Fleet and rows.
        layouts: Of all model types: what trains decides what a step costs.
        journal: This rank's.
        selection: Draws the cohorts, and knows when clients are available.
    """
    config, population = federation.config, federation.population
    devices = make_devices(config, federation.model_types) if config.clock.is_on else None
    if devices is None:
        return RoundClock(config, population, journal, selection, None, None)
    recomputes = config.devices.checkpointing
    costs = [
        training_cost(model_type, layout, checkpointing=recomputes)
        for model_type, layout in zip(federation.model_types, layouts, strict=True)
    ]
    meter = ClientMeter(costs, federation.data.train, config.local, run_seed=config.seed)
    leaves_after = selection.leaves_after if config.availability.is_limited else None
    clock = VirtualClock(config.clock, devices.of, leaves_after, batteries=devices.have_batteries)
    return RoundClock(config, population, journal, selection, clock, meter)
