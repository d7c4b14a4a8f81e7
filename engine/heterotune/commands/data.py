"""`heterotune data`: who holds what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, Overrides, RunFile, named_or_default
from heterotune.commands.ending import errors_end_the_command


def data(
    run_yaml: RunFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: a .png, .svg or .pdf file.")] = None,
) -> None:
    """Show who holds what: clients, owners, labels, rows, tokens, skew, and a digest of all rows."""
    from heterotune.config.load import load_run
    from heterotune.data_command import show_data
    from heterotune.report.terminal import report_console

    with errors_end_the_command():
        show_data(load_run(named_or_default(run_yaml), overrides or []), report_console(), as_json=as_json, plot=plot)
