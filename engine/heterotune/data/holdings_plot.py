"""A plot of who holds what: clients by label, and rows of each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heterotune.data.overview import fleet_counts
from heterotune.errors import ConfigError

SUFFIXES = (".png", ".svg", ".pdf")
_MOST_LABELS = 40
_MOST_CLIENTS = 200
_OTHERS = "all others"


def check_plot_path(path: Path) -> None:
    """Check that a plot can be written in the format that its name asks for.

    Raises:
        ConfigError: If not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError([f"--plot {path}: not a {'/'.join(SUFFIXES)} file. Name one."])
    if not path.absolute().parent.is_dir():
        raise ConfigError([f"--plot {path}: there is no folder {path.absolute().parent}. Make it first."])


def plot_holdings(found: Mapping[str, Any], path: Path) -> None:
    """Draw each client's share of rows by label (by owner where there are no labels), and its number of rows.

    Args:
        found: What `overview` returns.
        path: A PNG, SVG or PDF file; replaced if it exists.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clients = found["clients"][:_MOST_CLIENTS]
    kind = "labels" if any(client["labels"] for client in clients) else "owners"
    names, counts = counts_of(clients, kind)
    figure = Figure(figsize=(8, 1.5 + 0.16 * max(len(clients), 12)), layout="constrained")
    FigureCanvasAgg(figure)
    shares_axes, rows_axes = figure.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    totals = counts.sum(axis=1, keepdims=True)
    image = shares_axes.imshow(counts / np.maximum(totals, 1), aspect="auto", cmap="viridis", vmin=0, vmax=1)
    shares_axes.set_xticks(range(len(names)), [name[:24] for name in names], rotation=90, fontsize=6)
    ticks = range(0, len(clients), 1 + len(clients) // 40)
    shares_axes.set_yticks(ticks, [f"{clients[i]['client']} {clients[i]['model_type']}" for i in ticks], fontsize=6)
    shares_axes.set(xlabel=kind, ylabel="client", title="share of the client's training rows")
    figure.colorbar(image, ax=shares_axes, fraction=0.03)
    rows_axes.barh(range(len(clients)), [client["train_rows"] for client in clients], color="0.4")
    rows_axes.set(xlabel="training rows")
    figure.suptitle(f"who holds what, digest {found['digest'][:16]}", fontsize=9)
    figure.savefig(path, dpi=150)


def counts_of(clients: Sequence[Mapping[str, Any]], kind: str) -> tuple[list[str], np.ndarray]:
    """Return names and rows of each client by name, int64 (clients, names); rare names are counted together."""
    ordered = list(fleet_counts(clients, kind))
    names = sorted(ordered[:_MOST_LABELS])
    counts = [[client[kind].get(name, 0) for name in names] for client in clients]
    if len(ordered) > _MOST_LABELS:
        names = [*names, _OTHERS]
        counts = [[*row, sum(c[kind].values()) - sum(row)] for row, c in zip(counts, clients, strict=True)]
    return names, np.array(counts, dtype=np.int64).reshape(len(clients), len(names))
