"""A comparison of runs as a page, a table for the terminal, CSV and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from rich.table import Table as TerminalTable

from heterotune.report.comparison import MEASURES, Comparison, Group, Spread
from heterotune.report.costs import has_clock
from heterotune.report.page import Page, Section, Table
from heterotune.report.plots.cost_curves import cost_plots
from heterotune.report.plots.group_curves import bytes_group_plots, learning_group_plots, model_types
from heterotune.report.plots.learning import ALL_TYPES
from heterotune.report.quantities import bytes_unit, energy_unit, format_number, time_unit
from heterotune.report.targets import Target, default_targets, target_table, target_tables, targets_record

_HEADS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "up_bytes": "up",
    "down_bytes": "down",
    "seconds_per_round": "round",
    "peak_bytes": "peak",
    "virtual_seconds": "virtual time",
    "energy_joules": "energy",
}
_SCALED = {"bytes": bytes_unit, "s": time_unit, "J": energy_unit}
_TITLE = "mean ± standard deviation over seeds; bytes of one client in one round"


def comparison_page(comparison: Comparison, targets: Sequence[Target] = ()) -> Page:
    """Return the page of a comparison.

    Args:
        comparison: Groups of runs.
        targets: What is to be reached; none = chosen, where runs have a clock.
    """
    runs = {entry.run.folder for group in comparison.groups for entry in group.entries}
    heads, rows = result_rows(comparison)
    labels = [group.label for group in comparison.groups]
    differences = [[key, *values] for key, values in comparison.differences()]
    sections = [
        Section(
            *("results", "Results", f"{_TITLE[0].upper()}{_TITLE[1:]}. A single run has no standard deviation."),
            tables=[Table("After the last round", heads, rows, num_words=2)],
        ),
        Section("learning", "Learning curves", plots=list(learning_group_plots(comparison)), empty=_NOTHING),
        Section("bytes", "Bytes and quality", plots=list(bytes_group_plots(comparison)), empty=_NOTHING),
        *_spent_section(comparison, targets),
        Section(
            *(
                "settings",
                "What differs",
                "Settings that are not the same in all groups. Seeds and names do not count.",
            ),
            tables=[Table("By group", ["setting", *labels], differences, 1 + len(labels))] if differences else [],
            empty="Nothing: all runs have the same settings but for their seeds.",
        ),
        Section("runs", "Runs", tables=[Table("All runs", _RUN_HEADS, list(_runs(comparison)), len(_RUN_HEADS))]),
        Section("warnings", "Warnings and gaps", empty="None."),
    ]
    if comparison.missing:
        sections[-1].lists.append(("Missing, damaged or odd", list(dict.fromkeys(comparison.missing))))
    subtitle = f"{len(runs)} runs in {len(comparison.groups)} groups: {'; '.join(labels)}"
    return Page("Comparison of runs", subtitle, "", "", sections)


_SPENT = (
    "What the clients' own devices would have taken, means over seeds. A target is reached in the first round that was "
    "evaluated and is good enough; a mean is over the runs that reached it."
)
_NOTHING = "The run folders have nothing of this yet."
_RUN_HEADS = (
    "run folder",
    "group",
    "seed",
    "state",
    "rounds",
    "MPI ranks",
    "heterotune",
    "sha256 of the global adapters",
)


def _runs(comparison: Comparison) -> Iterator[list[str]]:
    for group in comparison.groups:
        for entry in group.entries:
            environment, summary = entry.run.environment, entry.strategy.summary
            rounds = f"{entry.strategy.metrics.newest_round} of {entry.run.rounds or '?'}"
            made = [environment.get("num_ranks", "-"), environment.get("heterotune", "-")]
            digest = str(summary.get("global_adapter_sha256", "-"))
            yield [str(entry.run.folder), group.label, str(entry.seed), entry.run.state, rounds, *made, digest[:16]]


def _spent_section(comparison: Comparison, targets: Sequence[Target]) -> Iterator[Section]:
    """Yield what the simulated devices took; nothing where no clock ran and no target was asked for."""
    wanted = wanted_targets(comparison, targets)
    if not wanted and not _any_clock(comparison):
        return
    runs, types = comparison.contestants, model_types(comparison)
    plots = list(cost_plots(runs, types)) if _any_clock(comparison) else []
    tables = target_tables(runs, wanted, types)
    yield Section("spent", "Virtual time and energy", _SPENT, tables=tables, plots=plots, empty=_NOTHING)


def wanted_targets(comparison: Comparison, targets: Sequence[Target]) -> list[Target]:
    """Return the targets that were asked for; where there are none and a clock ran, some that all runs reach."""
    return list(targets) or (default_targets(comparison.contestants) if _any_clock(comparison) else [])


def _any_clock(comparison: Comparison) -> bool:
    return has_clock([run for runs in comparison.contestants.values() for run in runs])


def result_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the results, without the measures that no run has."""
    spreads = {
        (place, model_type, name): group.spread(name, model_type)
        for place, group in enumerate(comparison.groups)
        for model_type in group.model_types
        for name in MEASURES
    }
    shown = [name for name in MEASURES if any(found and key[2] == name for key, found in spreads.items())]
    rows = [
        [
            model_type,
            group.label,
            str(len(group.counted)),
            *(_cell(name, spreads[place, model_type, name]) for name in shown),
        ]
        for model_type in dict.fromkeys(name for group in comparison.groups for name in group.model_types)
        for place, group in enumerate(comparison.groups)
        if model_type in group.model_types
    ]
    return ["model type", "group", "runs", *(_HEADS[name] for name in shown)], rows


def _cell(name: str, spread: Spread | None) -> str:
    """Write mean and standard deviation in one unit, the mean's."""
    if spread is None:
        return "-"
    if name == "seconds_per_round":
        return _written(spread, 1.0, 1, " s")
    if MEASURES[name] in _SCALED:
        scale, unit = _SCALED[MEASURES[name]](spread.mean)
        return _written(spread, 1 / scale, 1, f" {unit}")
    return _written(spread, 100.0, 1, " %") if MEASURES[name] == "share" else _written(spread, 1.0, 4, "")


def _written(spread: Spread, scale: float, decimals: int, unit: str) -> str:
    std = "" if spread.std is None else f" ± {format_number(scale * spread.std, decimals) if spread.std else 0}"
    return f"{format_number(scale * spread.mean, decimals)}{std}{unit}"


def terminal_table(comparison: Comparison) -> TerminalTable:
    """Return the results for a terminal."""
    heads, rows = result_rows(comparison)
    table = TerminalTable(title=_TITLE)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right", overflow="fold", no_wrap=place != 1)
    for row in rows:
        table.add_row(*row, end_section=row[1] == comparison.groups[-1].label)
    return table


def terminal_target_table(comparison: Comparison, targets: Sequence[Target]) -> TerminalTable | None:
    """Return for a terminal what it took to reach targets; None where nothing is to be shown."""
    found = target_table(comparison.contestants, wanted_targets(comparison, targets), ALL_TYPES)
    if found is None:
        return None
    table = TerminalTable(title=found.caption)
    for place, head in enumerate(found.columns):
        table.add_column(head, justify="left" if place < found.num_words else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*row, end_section=row[1] == comparison.groups[-1].label)
    return table


def write_csv(comparison: Comparison, file: TextIO) -> None:
    """Write a line for each model type and group, mean and standard deviation of each measure side by side."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["model_type", "group", "seeds", *(f"{name}_{what}" for name in MEASURES for what in _COLUMNS)])
    for group in comparison.groups:
        for model_type in group.model_types:
            spreads = [group.spread(name, model_type) for name in MEASURES]
            numbers = [getattr(each, what) if each else None for each in spreads for what in _COLUMNS]
            table.writerow([model_type, group.label, group.seeds(), *numbers])


_COLUMNS = ("mean", "std")


def as_record(comparison: Comparison, targets: Sequence[Target] = ()) -> dict[str, Any]:
    """Return all of it for JSON; `targets` only where there are some."""
    keys = [key for key, _ in comparison.differences()]
    groups = [_group_record(group, keys) for group in comparison.groups]
    wanted = wanted_targets(comparison, targets)
    types = [ALL_TYPES, *model_types(comparison)]
    reached = {"targets": targets_record(comparison.contestants, wanted, types)} if wanted else {}
    return {"groups": groups, **reached, "missing": comparison.missing}


def _group_record(group: Group, keys: list[str]) -> dict[str, Any]:
    entries = [
        {
            "run_dir": str(entry.run.folder),
            "seed": entry.seed,
            "state": entry.run.state,
            "counts": entry in group.counted,
        }
        for entry in group.entries
    ]
    results = {
        model_type: {name: vars(found) for name in MEASURES if (found := group.spread(name, model_type)) is not None}
        for model_type in group.model_types
    }
    return {
        "label": group.label,
        "strategy": group.settings["strategy"],
        "settings": {key: group.settings.get(key) for key in keys},
        "runs": entries,
        "all_model_types": results.pop(ALL_TYPES),
        "model_types": results,
    }
