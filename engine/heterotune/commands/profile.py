"""`heterotune profile`: the memory of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, RunDir
from heterotune.commands.ending import errors_end_the_command


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

    with errors_end_the_command():
        profile_run(run_dir, report_console(), trace=trace, as_json=as_json)
