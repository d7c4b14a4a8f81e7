"""Writes the headline experiment's tables (CSV, and all of them as one page of markdown) and draws its plots."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from headline_report import (  # noqa: E402
    FLEET,
    MethodRun,
    Row,
    communication_rows,
    first_round_bytes,
    memory_rows,
    quality_rows,
    round_bytes,
    wire_rows,
)
from matplotlib import pyplot  # noqa: E402
from tables import table_header, write_table  # noqa: E402

from heterotune.report.quantities import format_bytes  # noqa: E402

TITLES = {
    "communication": "Bytes of a client in a round that it takes part in, and until the fleet reaches the target loss",
    "quality": "Held-out loss after the last round, by model type",
    "memory": "Peak memory of the rank that takes most",
    "wire": "What one client sends and gets at the shape of a large model",
}
NOTES = {
    "communication": (
        "Means over seeds, from the ledger of encoded messages. down_once: frozen tensors, when a client first takes "
        "part. below_full: up and down of a round together, in percent below fedavg_full. "
        "target_loss: of the method that reaches least, its best held-out loss (mean over model types; per seed). "
        "bytes_to_target: all of it, of one place in the cohort, from round 1 to the first round at the target."
    ),
    "quality": "Nats per token on the held-out rows; mean and standard deviation over seeds.",
    "memory": (
        "peak: over all phases from loading to saving; less_runtime: minus what a process takes that has only loaded "
        "torch, DeepSpeed and transformers. below_full and below_plain: in percent, against fedavg_full and against "
        "plain PyTorch that fine-tunes one client's model (no federation, no frozen copy, no messages)."
    ),
    "wire": (
        "Every message was encoded and counted, then dropped; down_once travels when a client first takes part. "
        "peak: of the process that encodes."
    ),
}


def write_report(
    out: Path,
    name: str,
    *,
    plan: Mapping[str, Any],
    runs: Sequence[MethodRun],
    peaks: Mapping[str, Any],
    runtime_bytes: int,
    wire: Sequence[Row],
    commits: Sequence[str],
) -> None:
    """Write NAME_*.csv, NAME.md and NAME.png; arguments are those of `headline.report_parts`."""
    tables = {
        "communication": communication_rows(runs),
        "quality": quality_rows(runs),
        "memory": [row for what, by_method in peaks.items() for row in memory_rows(what, by_method, runtime_bytes)],
        "wire": wire_rows(plan["wire"]["title"], wire),
    }
    rates = ", ".join(f"{method} {chosen['learning_rate']:g}" for method, chosen in plan["methods"].items())
    facts = [
        f"measured at commit: {', '.join(commits)}",
        f"learning rates, picked on seed {plan['tuning']['seed']}, which is not reported: {rates}",
        f"seeds: {', '.join(map(str, plan['seeds']))}; an empty process takes {format_bytes(runtime_bytes)}",
    ]
    for table, rows in tables.items():
        write_table(out / f"{name}_{table}.csv", rows, [*facts, NOTES[table]])
    header = [f"{key}: {value}" for key, value in table_header().items()]
    (out / f"{name}.md").write_text(page(plan["title"], tables, [*header, *facts]), encoding="utf-8")
    draw(out / f"{name}.png", runs, tables)


def page(title: str, tables: Mapping[str, Sequence[Row]], facts: Sequence[str]) -> str:
    """Return all tables as one page of markdown."""
    parts = [f"# Headline experiment: {title}", "\n".join(f"- {fact}" for fact in facts)]
    for table, rows in tables.items():
        parts += [f"## {TITLES[table]}", NOTES[table], markdown(rows)]
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """Return rows of equal columns as a table; bytes in readable units."""
    heads = [column.removesuffix("_bytes").replace("_", " ") for column in rows[0]]
    cells = [[_cell(column, value) for column, value in row.items()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *cells])


def _cell(column: str, value: Any) -> str:
    return format_bytes(value) if "bytes" in column and value != "" else str(value)


def draw(picture_file: Path, runs: Sequence[MethodRun], tables: Mapping[str, Sequence[Row]]) -> None:
    """Draw loss against bytes, bytes at both scales, and memory as PNG."""
    figure, panels = pyplot.subplots(2, 2, figsize=(13, 8.5), layout="constrained")
    _draw_losses(panels[0, 0], runs)
    fleet = [row for row in tables["communication"] if row["model_type"] == FLEET]
    bars = {row["method"]: (round_bytes(row), row["bytes_to_target"]) for row in fleet}
    _draw_bars(panels[0, 1], bars, ("a round", "to the target loss"), "bytes of a client, both ways", "log")
    bars = {row["method"]: (first_round_bytes(row),) for row in tables["wire"]}
    _draw_bars(
        panels[1, 0], bars, (f"first round, {tables['wire'][0]['what']}",), "bytes of a client, both ways", "log"
    )
    rows = [row for row in tables["memory"] if row["kind"] == tables["memory"][-1]["kind"]]
    places = list(dict.fromkeys(row["what"] for row in rows))
    methods = dict.fromkeys(row["method"] for row in rows)
    bars = {method: tuple(row["peak_bytes"] for row in rows if row["method"] == method) for method in methods}
    _draw_bars(panels[1, 1], bars, places, f"peak of a rank ({rows[0]['kind']})", "linear")
    figure.savefig(picture_file, dpi=110)
    pyplot.close(figure)


def _draw_losses(axes: pyplot.Axes, runs: Sequence[MethodRun]) -> None:
    colours = {method: f"C{place}" for place, method in enumerate(dict.fromkeys(run.method for run in runs))}
    for run in runs:
        numbers = [number for number in run.fleet_losses if number > 0]
        known = run.method not in axes.get_legend_handles_labels()[1]
        axes.plot(
            [run.bytes_until(number) for number in numbers],
            [run.fleet_losses[number] for number in numbers],
            marker=".",
            color=colours[run.method],
            label=run.method if known else None,
        )
    axes.set_xscale("log")
    axes.set_xlabel("bytes of a place in the cohort, both ways")
    axes.set_title("held-out loss, mean over model types (one line a seed)", fontsize=10)
    axes.legend(fontsize=8)


def _draw_bars(
    axes: pyplot.Axes, bars: Mapping[str, Sequence[float]], labels: Sequence[str], title: str, scale: str
) -> None:
    width = 0.8 / len(bars)
    for place, (method, heights) in enumerate(bars.items()):
        where = [number + place * width for number in range(len(heights))]
        drawn = axes.bar(where, heights, width * 0.95, label=method)
        axes.bar_label(drawn, [format_bytes(height) for height in heights], fontsize=7)
    middles = [number + 0.4 - width / 2 for number in range(len(labels))]
    axes.set_xticks(middles, [textwrap.fill(label, 24) for label in labels])
    axes.set_yscale(scale)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
