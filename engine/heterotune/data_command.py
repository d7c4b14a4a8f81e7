"""`heterotune data`: who holds what in a run, as a table, JSON or a plot, before the run starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heterotune.config.schema import RunConfig
from heterotune.data.fleet_tokenizers import load_fleet_tokenizers
from heterotune.data.holdings_plot import check_plot_path, plot_holdings
from heterotune.data.overview import fleet_counts, overview
from heterotune.fleet.model_types import read_model_types
from heterotune.preflight import load_data

MOST_CLIENTS = 64
_MOST_NAMES = 4
_LONGEST_NAME = 28


def data_overview(config: RunConfig) -> dict[str, Any]:
    """Load, divide and tokenise a run's data; no weights are read.

    Returns:
        What RUN/data.json will hold; see `overview`.

    Raises:
        DataError: If the corpus cannot serve the fleet.
        ModelError: If a model or a tokenizer does not fit.
    """
    model_types = read_model_types(config.fleet)
    tokenizers = load_fleet_tokenizers(model_types, config.data.tokenizer)
    data = load_data(config, model_types, tokenizers)[0]
    return overview(data, [model_type.name for model_type in model_types for _ in range(model_type.num_clients)])


def show_data(config: RunConfig, console: Console, *, as_json: bool, plot: Path | None) -> None:
    """Print who holds what, and draw it if a plot is wanted.

    Args:
        config: The run.
        console: Where the tables go.
        as_json: Print one JSON object instead.
        plot: PNG, SVG or PDF file to write; None = no plot.

    Raises:
        ConfigError: If the plot's file is of another kind; before anything is read.
        DataError, ModelError: As `data_overview`.
    """
    if plot is not None:
        check_plot_path(plot)
    found = data_overview(config)
    if plot is not None:
        plot_holdings(found, plot)
    if as_json:
        console.file.write(json.dumps(found, indent=1) + "\n")
        return
    console.print(clients_table(found["clients"], found["num_clients"]))
    for line in summary_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if plot is not None:
        console.print(f"plot {plot}", markup=False, highlight=False, soft_wrap=True)


def clients_table(clients: Sequence[Mapping[str, Any]], num_clients: int) -> Table:
    """Return who holds what; of large fleets the first clients."""
    table = Table(title="who holds what")
    for name in (
        "client",
        "model type",
        "documents",
        "rows",
        "held out",
        "tokens",
        "cut",
        "lengths",
        "owners",
        "labels",
    ):
        is_text = name in ("model type", "owners", "labels")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for client in clients[:MOST_CLIENTS]:
        keys = ("documents", "train_rows", "heldout_rows", "train_tokens", "cut_rows")
        quartiles = client["length_quartiles"]
        lengths = f"{quartiles[0]}-{quartiles[2]}-{quartiles[4]}" if quartiles else ""
        labels = "" if client["labels"] == client["owners"] else _few(client["labels"])
        numbers = [f"{client[key]:,}" for key in keys]
        table.add_row(str(client["client"]), client["model_type"], *numbers, lengths, _few(client["owners"]), labels)
    if len(clients) > MOST_CLIENTS:
        more = "all" if len(clients) == num_clients else f"{len(clients)} of them"
        table.caption = f"{MOST_CLIENTS} of {num_clients} clients; --json has {more}"
    return table


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what holds for the whole fleet, one line each."""
    clients, num_clients = found["clients"], found["num_clients"]
    rows, cut = sum(client["train_rows"] for client in clients), sum(client["cut_rows"] for client in clients)
    heldout = found["fleet_heldout_rows"] + sum(client["heldout_rows"] for client in clients)
    share = cut / rows if rows else 0.0
    lines = (
        []
        if len(clients) == num_clients
        else [
            f"{num_clients:,} clients, {found['num_train_rows']:,} training rows in all; what follows is of "
            f"{len(clients):,} clients at equal distances"
        ]
    )
    lines += [
        f"{len(clients)} clients, {rows:,} training rows, {sum(c['train_tokens'] for c in clients):,} tokens; "
        f"{heldout:,} rows are evaluated, {found['fleet_heldout_rows']:,} of them the whole fleet's",
        f"{cut:,} training rows ({share:.1%}) lost tokens of their prompt or response to data.max_tokens",
    ]
    lines += [f"labels: {_few(fleet_counts(clients, 'labels'), 12)}"] if any(c["labels"] for c in clients) else []
    lines += [f"skew: {', '.join(f'{name} {value:.3g}' for name, value in found['skew'].items())}"]
    return [*lines, f"digest {found['digest']}"]


def _few(counts: Mapping[str, int], most: int = _MOST_NAMES) -> str:
    """Write the names with the most rows."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{name[:_LONGEST_NAME]} {count:,}" for name, count in ordered[:most]]
    more = len(ordered) - most
    return ", ".join(names) + (f", {more} more" if more > 0 else "")
