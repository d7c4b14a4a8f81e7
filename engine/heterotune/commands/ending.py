"""How a command ends: exit codes, and errors without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from heterotune.errors import PREEMPTED, HeterotuneError

INTERRUPTED = 130

EXIT_CODES = {
    0: "done",
    1: "it began and failed; plan: it does not fit; doctor: something is missing",
    2: "nothing was started: an input, an option or a setting is wrong",
    PREEMPTED: "the run was asked to stop and has saved; `heterotune resume` goes on",
    INTERRUPTED: "Ctrl-C; 128 + n after signal n",
}
"""What a script may rely on. `submit --wait` and `status --follow` return the code of the run that they follow."""


def exit_codes_line() -> str:
    """Return the table as one line for --help."""
    return "Exit codes: " + " · ".join(f"{code} = {meaning}" for code, meaning in EXIT_CODES.items()) + "."


@contextmanager
def errors_end_the_command() -> Iterator[None]:
    """Print what a user can cause without a traceback, and end with its exit code."""
    try:
        yield
    except HeterotuneError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
