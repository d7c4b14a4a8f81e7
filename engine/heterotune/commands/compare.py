"""`heterotune compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, Targets
from heterotune.commands.ending import errors_end_the_command


def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Run folders, or a folder of them, as of an array of seeds."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the figures.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every plot there: PNG, SVG and CSV.")] = None,
    target: Targets = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: mean and standard deviation over the runs that differ only in their seed."""
    from heterotune.compare_command import compare_runs
    from heterotune.report.terminal import report_console

    with errors_end_the_command():
        compare_runs(run_dirs, out, csv, plots, targets=target or (), as_json=as_json, console=report_console())
