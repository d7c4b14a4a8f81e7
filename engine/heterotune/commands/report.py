"""`heterotune report`: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import RunDir, Targets
from heterotune.commands.ending import errors_end_the_command


def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page; default: report.html in the run folder.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every plot there, too: PNG, SVG and CSV.")
    ] = None,
    target: Targets = None,
) -> None:
    """Write one HTML page with a run's curves, bytes, memory, conflicts, data, time and configuration."""
    from heterotune.report.terminal import report_console
    from heterotune.report_command import report_run

    with errors_end_the_command():
        report_run(run_dir, out, plots, report_console(), target or ())
