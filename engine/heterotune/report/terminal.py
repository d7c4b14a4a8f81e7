"""The table at the end of a run, from its summary.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from heterotune.profiling.kinds import (
    DEVICE_ALLOCATED,
    DEVICE_RESERVED,
    HOST_PINNED,
    HOST_RESIDENT,
    NODE_PSS,
    NVME,
)
from heterotune.profiling.leaks import Leak
from heterotune.report.quantities import format_bytes, format_number, format_seconds, format_share

PLAIN_WIDTH = 140
_KINDS = {
    HOST_RESIDENT: "resident",
    HOST_PINNED: "pinned",
    NVME: "NVMe",
    DEVICE_ALLOCATED: "GPU allocated",
    DEVICE_RESERVED: "GPU reserved",
    NODE_PSS: "its node, shared pages once",
}
_QUALITY = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "personal_loss": "own loss",
    "personal_accuracy": "own accuracy",
}


def report_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return the console for reports: as wide as the terminal, or wide enough for the table where there is none.

    Args:
        stderr: Standard output is for something else, such as JSON.
        quiet: Show nothing at all.
    """
    console = Console(stderr=stderr, quiet=quiet)
    return console if console.is_terminal else Console(width=PLAIN_WIDTH, stderr=stderr, quiet=quiet)


def final_report(summary: Mapping[str, Any], run_path: Path) -> ConsoleRenderable:
    """Return the report of a finished run.

    Args:
        summary: RUN/summary.json.
        run_path: The run folder, shown last.
    """
    strategies = {summary["strategy"]: summary, **summary.get("compare", {})}
    parts: list[ConsoleRenderable] = [loss_table(strategies), bytes_table(strategies), memory_table(summary)]
    if any(_quality_columns(strategy) for strategy in strategies.values()):
        parts.insert(1, quality_table(strategies))
    times = (
        f"{summary['strategy']}: {summary['rounds']} rounds in {format_seconds(summary['seconds'])}, "
        f"{format_seconds(summary['seconds_per_round'])} a round (median), "
        f"start {format_seconds(summary['startup_seconds'])}{_idle_text(summary)}"
    )
    lines = [times, f"global adapters sha256 {summary['global_adapter_sha256']}", f"run folder {run_path}"]
    lines += [f"{name}: {Leak(**leak)}" for name, strategy in strategies.items() for leak in strategy.get("leaks", ())]
    return Group(*parts, *(Text(line, overflow="fold") for line in lines))


def loss_table(strategies: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return held-out loss and perplexity of each model type, before and after, for each strategy."""
    table = Table(title="held-out loss (nats/token) and perplexity, before -> after")
    table.add_column("model type")
    table.add_column("clients", justify="right")
    for strategy in strategies:
        table.add_column(f"{strategy}\nloss", justify="right")
        table.add_column(f"{strategy}\nperplexity", justify="right")
    first = next(iter(strategies.values()))
    for name, facts in first["model_types"].items():
        row = [name, str(facts["num_clients"])]
        for summary in strategies.values():
            row += _before_after(summary["model_types"].get(name, {}))
        table.add_row(*row)
    return table


def quality_table(strategies: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what was measured beside the loss, before and after: right answers in percent, losses of own adapters."""
    table = Table(title="also held out: right answers (%), own adapters")
    table.add_column("model type")
    columns = [(name, key) for name, summary in strategies.items() for key in _quality_columns(summary)]
    for strategy, key in columns:
        table.add_column(f"{strategy}\n{_QUALITY[key]}", justify="right")
    for model_type in next(iter(strategies.values()))["model_types"]:
        facts = [(strategies[strategy]["model_types"].get(model_type, {}), key) for strategy, key in columns]
        table.add_row(model_type, *(_change(mine, key) for mine, key in facts))
    return table


def bytes_table(strategies: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what one client sends and receives in a round, and its share of sending the full model."""
    table = Table(title="bytes of one client in one round (measured), and share of the full model")
    for column in ("model type", "full model", "strategy", "up", "share", "down", "share"):
        table.add_column(column, justify="left" if column in ("model type", "strategy") else "right")
    first = next(iter(strategies.values()))
    for name, facts in first["model_types"].items():
        for place, (strategy, summary) in enumerate(strategies.items()):
            mine = summary["model_types"].get(name, facts)
            up, down = mine["up_bytes_per_client_round"], mine["down_bytes_per_client_round"]
            full = mine["full_model_bytes"]
            shares = [format_bytes(up), format_share(up, full), format_bytes(down), format_share(down, full)]
            table.add_row(*([name, format_bytes(full)] if place == 0 else ["", ""]), strategy, *shares)
    return table


def memory_table(summary: Mapping[str, Any]) -> Table:
    """Return the peak memory of each MPI rank, by kind."""
    peaks: dict[int, dict[str, int]] = defaultdict(dict)
    for record in summary["peak_bytes"]:
        peaks[record["mpi_rank"]][record["kind"]] = record["peak_bytes"]
    kinds = [kind for kind in _KINDS if any(kind in mine for mine in peaks.values())]
    table = Table(title="peak memory of each MPI rank")
    table.add_column("MPI rank", justify="right")
    for kind in kinds:
        table.add_column(_KINDS[kind], justify="right")
    for mpi_rank, mine in sorted(peaks.items()):
        table.add_row(str(mpi_rank), *(format_bytes(mine[kind]) if kind in mine else "-" for kind in kinds))
    return table


def startup_table(seconds: Mapping[str, float]) -> Table:
    """Return where the time before the first round went."""
    table = Table(title="before round 1")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, spent in seconds.items():
        table.add_row(name, f"{spent:.2f}")
    table.add_row("all", f"{sum(seconds.values()):.2f}", style="bold")
    return table


def _idle_text(summary: Mapping[str, Any]) -> str:
    """Return how much of the rounds ranks waited; nothing for one rank, or where an earlier version ran."""
    shares = {record["mpi_rank"]: record["idle_share"] for record in summary.get("idle_share", ())}
    if len(shares) < 2:
        return ""
    most = max(shares, key=lambda mpi_rank: shares[mpi_rank])
    mean = sum(shares.values()) / len(shares)
    return f", ranks idle {mean:.0%} of a round (most: rank {most}, {shares[most]:.0%})"


def _quality_columns(summary: Mapping[str, Any]) -> list[str]:
    """Return which of the further figures some model type of a strategy has."""
    return [key for key in _QUALITY if any(f"{key}_after" in facts for facts in summary["model_types"].values())]


def _change(facts: Mapping[str, Any], key: str) -> str:
    before, after = (facts.get(f"{key}_{when}") for when in ("before", "after"))
    if after is None:
        return "-"
    scale, decimals = (1, 3) if key.endswith("loss") else (100, 1)
    return " -> ".join(format_number(None if v is None else scale * v, decimals) for v in (before, after))


def _before_after(facts: Mapping[str, Any]) -> list[str]:
    if not facts:
        return ["-", "-"]
    return [
        f"{format_number(facts['loss_before'])} -> {format_number(facts['loss_after'])}",
        f"{format_number(facts['perplexity_before'], 2)} -> {format_number(facts['perplexity_after'], 2)}",
    ]
