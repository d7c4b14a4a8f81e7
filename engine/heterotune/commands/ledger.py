"""`heterotune ledger`: the bytes of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, RunDir
from heterotune.commands.ending import errors_end_the_command
from heterotune.errors import ConfigError


def ledger(
    run_dir: RunDir,
    by: Annotated[
        str | None,
        typer.Option(help="Sum by: round,client,type,direction,group; with --traffic round,mpi_rank,what."),
    ] = None,
    traffic: Annotated[
        bool, typer.Option("--traffic", help="What the simulator's ranks moved, instead of what clients would send.")
    ] = False,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Sum the bytes of a run: what its clients would send and get, or what the simulator itself moved."""
    from heterotune.ledger_command import show_ledger
    from heterotune.report.terminal import report_console

    with errors_end_the_command():
        if as_json and as_csv:
            raise ConfigError(["--json and --csv exclude each other. Choose one."])
        form = "json" if as_json else "csv" if as_csv else "table"
        show_ledger(run_dir, by, traffic=traffic, form=form, console=report_console())
