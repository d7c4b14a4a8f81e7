"""`heterotune export`: a model type's adapter for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import RunDir
from heterotune.commands.ending import errors_end_the_command
from heterotune.errors import ConfigError


def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    model_type: Annotated[str, typer.Option(help="Name of the model type in the run's fleet.")],
    best: Annotated[bool, typer.Option("--best", help="After the best round instead of after the last.")] = False,
    round_number: Annotated[int | None, typer.Option("--round", help="After this round, if it is saved.")] = None,
    strategy: Annotated[str | None, typer.Option(help="One of compare_with instead of the run's own.")] = None,
    client: Annotated[int | None, typer.Option(help="With this client's personal branch.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="A whole model instead of an adapter.")] = False,
    without_head: Annotated[bool, typer.Option("--without-head", help="Leave the shared head branch out.")] = False,
    drop_head_bias: Annotated[
        bool, typer.Option("--drop-head-bias", help="With --merge: leave out the bias that a LLaMA cannot hold.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16 of what is written.")] = "auto",
    base: Annotated[Path | None, typer.Option(help="Folder for the frozen base model; default: OUT/base.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model type's adapter as a stock PEFT LoRA adapter, or merged into a whole model."""
    with errors_end_the_command():
        if best and round_number is not None:
            raise ConfigError(["--best and --round exclude each other. Choose one."])
        if without_head and drop_head_bias:
            raise ConfigError(["--without-head and --drop-head-bias exclude each other. Choose one."])
        from heterotune.export.command import ExportForm, export_adapter
        from heterotune.export.run_adapter import Choice

        head = "without" if without_head else "no-bias" if drop_head_bias else "whole"
        for line in export_adapter(
            run_dir,
            out,
            Choice(model_type, strategy, best, round_number, client),
            ExportForm(merge, head, dtype, base, force),
        ):
            typer.echo(line)
