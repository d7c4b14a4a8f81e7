"""The command `heterotune`: registers the commands. Each is a thin function that calls functions elsewhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from heterotune import __version__
from heterotune.commands.arguments import AsJson, RunDir
from heterotune.commands.doctor import doctor
from heterotune.commands.ending import errors_end_the_command as _errors_end_the_command
from heterotune.commands.ending import exit_codes_line
from heterotune.commands.init import init
from heterotune.commands.ledger import ledger
from heterotune.commands.plan import plan
from heterotune.commands.run import resume, run
from heterotune.commands.schema import schema
from heterotune.commands.status import status
from heterotune.commands.submit import submit

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


for _command in (init, run, resume, status, plan, submit, doctor, schema, ledger):
    app.command()(_command)


@app.command()
def profile(
    run_dir: RunDir,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write a Chrome trace of the newest round: open it in ui.perfetto.dev.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what memory every MPI rank needed in every phase, and write it as table and plot."""
    from heterotune.profile_command import profile_run
    from heterotune.report.terminal import report_console

    with _errors_end_the_command():
        profile_run(run_dir, report_console(), trace=trace, as_json=as_json)


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(app())
