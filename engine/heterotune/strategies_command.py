"""`heterotune strategies`: the federated methods that a run file may name. Loads no torch."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from heterotune.config.methods import METHODS

COLUMNS = ("strategy", "what it is", "source", "form")


def show_strategies(console: Console, *, as_json: bool) -> None:
    """Print all methods as a table or as a JSON list."""
    if as_json:
        listed = [{"name": name, **asdict(method)} for name, method in METHODS.items()]
        console.print(json.dumps(listed, indent=2), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(title="strategies")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in _rows():
        table.add_row(*row)
    console.print(table)


def markdown_table() -> str:
    """Return the table of docs/strategies.md."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *((f"`{name}`", *rest) for name, *rest in _rows())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows() -> list[tuple[str, str, str, str]]:
    return [(name, method.summary, method.source, method.form) for name, method in METHODS.items()]
