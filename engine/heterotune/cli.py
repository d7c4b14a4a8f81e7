"""The command `heterotune`: registers the commands; each is a thin function in `commands/`, one a file."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heterotune import __version__
from heterotune.commands.compare import compare
from heterotune.commands.data import data
from heterotune.commands.doctor import doctor
from heterotune.commands.ending import exit_codes_line
from heterotune.commands.export import export
from heterotune.commands.init import init
from heterotune.commands.ledger import ledger
from heterotune.commands.plan import plan
from heterotune.commands.profile import profile
from heterotune.commands.report import report
from heterotune.commands.run import resume, run
from heterotune.commands.schema import schema
from heterotune.commands.status import status
from heterotune.commands.strategies import strategies
from heterotune.commands.submit import submit

PANELS = {
    "Prepare": (init, data, plan, strategies, doctor, schema),
    "Run": (run, resume, submit),
    "Look at a run": (status, report, compare, ledger, profile),
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


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(app())
