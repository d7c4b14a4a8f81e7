"""`heterotune schema`: what a run file may say, for editors and for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.ending import errors_end_the_command
from heterotune.errors import LaunchError


def schema(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file instead of the terminal.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="A page that lists every key, instead.")] = False,
) -> None:
    """Print the JSON schema of run files: editors complete and check YAML with it."""
    from heterotune.config.json_schema import run_reference, run_schema

    text = run_reference() if markdown else json.dumps(run_schema(), indent=1) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    with errors_end_the_command():
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise LaunchError(f"{out}: cannot be written ({error.strerror}). Choose another --out.") from error
