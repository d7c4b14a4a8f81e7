"""A plan as tables for people."""

from __future__ import annotations

import math

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from heterotune.planning.collecting import VALUE_BYTES
from heterotune.planning.device_memory import told_fit
from heterotune.planning.fitting import Layout
from heterotune.planning.plan import Plan, assumptions
from heterotune.planning.time_model import collect_by_topology, num_values
from heterotune.profiling.components import COMPONENTS
from heterotune.report.quantities import format_bytes, format_seconds, format_share


def plan_report(plan: Plan) -> ConsoleRenderable:
    """Return the whole plan; the verdict comes last, where it is seen."""
    return Group(
        memory_table(plan.layout),
        needs_table(plan.layout),
        bytes_table(plan),
        *(Text(line, overflow="fold") for line in (*_figures(plan), *assumptions(plan), "", plan.verdict)),
    )


def memory_table(layout: Layout) -> Table:
    """Return the peak of the rank that needs most, by place and component."""
    table = Table(title="peak memory of the busiest rank, by phase (predicted)")
    table.add_column("component")
    columns = [
        (phase, place)
        for phase in ("load", "train", "evaluate")
        for place in ("host", "pinned", "nvme", "gpu")
        if layout.busiest[phase].total_bytes(place)
    ]
    for phase, place in columns:
        table.add_column(f"{phase}\n{place}", justify="right")
    for component in COMPONENTS:
        cells = [layout.busiest[phase].by_place[place].get(component, 0) for phase, place in columns]
        if any(cells):
            table.add_row(component, *(format_bytes(cell) if cell else "" for cell in cells))
    totals = (format_bytes(layout.busiest[phase].total_bytes(place)) for phase, place in columns)
    table.add_row("all", *totals, style="bold")
    return table


def needs_table(layout: Layout) -> Table:
    """Return what nodes and GPUs need, and what they have."""
    table = Table(title="needed and there")
    for column in ("where", "needed", "there", "share", "in phase"):
        table.add_column(column, justify="left" if column in ("where", "in phase") else "right")
    for need in layout.needs:
        there = "not given" if need.limit_bytes is None else format_bytes(need.limit_bytes)
        share = f"{need.need_bytes / need.limit_bytes:.0%}" if need.limit_bytes else "-"
        table.add_row(need.where, format_bytes(need.need_bytes), there, share, need.phase)
    return table


def bytes_table(plan: Plan) -> Table:
    """Return what one client of each model type sends and gets in a round."""
    table = Table(title=f"bytes of one client in one round ({plan.setting.config.collective.wire})")
    for column in ("model type", "group", "up", "down", "down once", "share of the full model"):
        table.add_column(column, justify="left" if column in ("model type", "group") else "right")
    told = plan.bytes
    for name, full in told.full_model_bytes.items():
        for group in (*told.up[name], *told.down_once[name]):
            up, down, once = (part[name].get(group, 0) for part in (told.up, told.down, told.down_once))
            cells = [format_bytes(part) if part else "" for part in (up, down, once)]
            table.add_row(name, group, *cells, format_share(up, full) if up else "")
    return table


def _figures(plan: Plan) -> list[str]:
    setting, layout, time, moved = plan.setting, plan.layout, plan.time, plan.traffic
    names = [each.name for each in setting.model_types]
    sizes = ", ".join(f"{names[place]} {size}" for place, size in layout.chunk_clients.items())
    how = (
        "the largest that fit and give every rank work; a run may pick less for speed" if layout.picked else "as given"
    )
    told = plan.bytes
    first = "" if time == plan.first_time else f" (the first {format_seconds(plan.first_time.seconds)})"
    return [
        f"clients per chunk: {sizes} ({how})",
        f"federation: {format_bytes(told.round_up_bytes)} up and {format_bytes(told.round_down_bytes)} down a round, "
        f"{format_bytes(told.total_bytes)} in all {setting.config.rounds} rounds",
        f"simulator, a rank and round: {format_bytes(moved.sum_to_root_bytes)} of sums to the root, "
        f"{format_bytes(moved.broadcast_bytes)} of broadcasts, {format_bytes(moved.zero3_gather_bytes)} of gathers",
        f"a round takes about {format_seconds(time.seconds)}{first} without evaluation, ranks are busy "
        f"{time.busy_share:.0%} of the training; the run about "
        f"{format_seconds(plan.run_seconds)}",
        *(f"device: {told_fit(fit)}" for fit in plan.devices),
        *_on_several_ranks(plan),
    ]


def _on_several_ranks(plan: Plan) -> list[str]:
    """Return what only concerns jobs of more than one rank: placement and topology."""
    setting = plan.setting
    num_ranks = setting.cluster.num_ranks
    if num_ranks == 1:
        return []
    dealt = ", ".join(
        f"{model_type.name} {len(ranks)}"
        for model_type, ranks in zip(setting.model_types, setting.placement.ranks_of_type, strict=True)
    )
    picked = setting.config.collective.topology
    seconds = {name: format_seconds(value) for name, value in collect_by_topology(setting).items()}
    crossover = plan.crossover_bytes
    start = "never" if math.isinf(crossover) else f"from {format_bytes(crossover)} of adapters on"
    return [
        f"placement {setting.config.placement}: ranks that hold each model type: {dealt}",
        f"collecting updates takes about {seconds['root']} at a root, {seconds['sharded']} in slices "
        f"(collective.topology: {picked}); on {num_ranks} ranks slices are quicker "
        f"{start}, here are {format_bytes(num_values(setting) * VALUE_BYTES)}",
    ]
