"""`heterotune init`: files to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import Quiet
from heterotune.commands.ending import errors_end_the_command
from heterotune.errors import ConfigError


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write them; made if missing.")] = Path(),
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="MODEL", help="A model of the fleet: embedded:small, a folder, a hub id; repeatable."
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option(help="Clients of the whole fleet, shared out evenly.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented run.yaml, its schema for editors, a DeepSpeed JSON and a batch script to start from."""
    from heterotune import starter

    with errors_end_the_command():
        named = [name for text in models or starter.DEFAULT_MODELS for name in _split(text)]
        if not named:
            raise ConfigError(["--models names no model. Name at least one, e.g. --models embedded:small."])
        num_clients = starter.DEFAULT_CLIENTS if clients is None else clients
        paths = starter.write_files(folder, starter.starter_files(folder, named, num_clients), force=force)
    if not quiet:
        for path in paths:
            typer.echo(f"wrote {path}")
        where = "" if folder == Path() else f"cd {folder} && "
        typer.echo(f"Now: {where}heterotune plan && heterotune run")


def _split(text: str) -> list[str]:
    """Take several models between commas, too; a `random:` model has commas of its own."""
    return [text] if text.startswith("random:") else [name.strip() for name in text.split(",") if name.strip()]
