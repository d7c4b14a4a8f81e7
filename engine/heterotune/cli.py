"""The command `heterotune`: registers the commands; each is a thin function in `commands/`, one a file."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heterotune import __version__
from heterotune.commands.data import data
from heterotune.commands.doctor import doctor
from heterotune.commands.ending import exit_codes_line
from heterotune.commands.export import export
from heterotune.commands.init import init
from heterotune.commands.ledger import ledger
from heterotune.commands.plan import plan
from heterotune.commands.profile import profile
from heterotune.commands.run import resume, run
from heterotune.commands.schema import schema
from heterotune.commands.status import status
from heterotune.commands.strategies import strategies
from heterotune.commands.submit import submit

PANELS = {
    "Prepare": (init, data, plan, strategies, doctor, schema),
    "Run": (run, resume, submit),
    "Look at a run": (status, ledger, profile),
    "Take it elsewhere": (export,),
}
"""Heading in `heterotune --help` -> commands below it."""

app = typer.Typer(
    help="Federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters.",
    epilog=exit_codes_line(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters."""


for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page; default: report.html in the run folder.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write every plot there, too: PNG, SVG and CSV.")
    ] = None,
) -> None:
    """Write one HTML page with a run's curves, bytes, memory, conflicts, data, time and configuration."""
    from heterotune.report.terminal import report_console
    from heterotune.report_command import report_run

    with _errors_end_the_command():
        report_run(run_dir, out, plots, report_console())


@app.command()
def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Run folders, or a folder of them, as of an array of seeds."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the figures.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every plot there: PNG, SVG and CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Put runs side by side: mean and standard deviation over the runs that differ only in their seed."""
    from heterotune.compare_command import compare_runs
    from heterotune.report.terminal import report_console

    with _errors_end_the_command():
        compare_runs(run_dirs, out, csv, plots, as_json=as_json, console=report_console())


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(app())
