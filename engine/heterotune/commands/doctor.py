"""`heterotune doctor`: what this machine has and lacks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from heterotune.commands.arguments import AsJson
from heterotune.commands.ending import errors_end_the_command

if TYPE_CHECKING:
    from heterotune.doctor import Check


def doctor(
    ds_config: Annotated[str, typer.Option(help="As in backbone.ds_config; its ops are built.")] = "zero3_cpu",
    fix: Annotated[bool, typer.Option("--fix", help="Clear stale build locks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check what this machine has for a run: versions, MPI, compiler, GPU, DeepSpeed's compiled ops and their locks."""
    from heterotune.doctor import examine

    console = Console(stderr=as_json)
    with errors_end_the_command():
        checks = examine(ds_config, fix=fix, say=lambda message: console.print(message, markup=False))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        console.print(_table(checks))
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _table(checks: Sequence[Check]) -> Table:
    """One row a check, with what to do where something is missing."""
    table = Table(title="heterotune doctor", show_lines=False)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        detail = check.detail if check.ok else f"{check.detail}\n-> {check.fix}"
        table.add_row("ok" if check.ok else "NO", check.name, detail)
    return table
