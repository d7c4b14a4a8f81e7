"""Arguments and options that several commands share, so that one word means one thing everywhere."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import Annotated

import typer

from heterotune.errors import ConfigError

DEFAULT_RUN_FILE = Path("run.yaml")

RunFile = Annotated[
    Path | None, typer.Argument(metavar="[RUN.yaml]", help="The run file; default: ./run.yaml.", show_default=False)
]


def run_folders_here(incomplete: str) -> list[str]:
    """Return the run folders below here that begin like a word, newest first; the shell completes with them."""
    patterns = (f"{escape(incomplete)}*/config.yaml", f"{escape(incomplete)}*/*/config.yaml")
    return sorted((str(path.parent) for pattern in patterns for path in Path().glob(pattern)), reverse=True)


RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.", autocompletion=run_folders_here)]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="loss=2.5", help="Tell what it took to reach a loss, an accuracy or an exact_match; repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless it fails.")]


def named_or_default(run_yaml: Path | None) -> Path:
    """Return the run file that was named, or the one that lies here.

    Raises:
        ConfigError: If there is none.
    """
    if run_yaml is not None:
        return run_yaml
    if DEFAULT_RUN_FILE.is_file():
        return DEFAULT_RUN_FILE
    raise ConfigError(
        [
            "RUN.yaml is missing. Name a run file, or an earlier run with --resume RUN_DIR. "
            f"`heterotune init` writes a {DEFAULT_RUN_FILE} that is taken when none is named."
        ]
    )
