"""The command `heterotune`. Thin: each command calls functions elsewhere and turns errors into exit codes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from heterotune import __version__
from heterotune.config.load import load_run
from heterotune.errors import HeterotuneError

app = typer.Typer(
    help="Federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _errors_end_the_command() -> Iterator[None]:
    """Print what a user can cause without a traceback; 2 = nothing was started, 1 = it failed."""
    try:
        yield
    except HeterotuneError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


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


@app.command()
def run(
    run_yaml: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.")],
    ranks: Annotated[int, typer.Option(help="MPI ranks on this machine; 1 = one process without MPI.")] = 1,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder in which the run folder is made.")] = None,
    oversubscribe: Annotated[bool, typer.Option("--oversubscribe", help="Allow many more ranks than cores.")] = False,
    profile_startup: Annotated[
        bool, typer.Option("--profile-startup", help="Say where the seconds before round 1 went.")
    ] = False,
) -> None:
    """Run a federation on this machine and show what came out of it."""
    from heterotune import preflight
    from heterotune.doctor import prepare_run
    from heterotune.launching.local import failure_text, run_local
    from heterotune.launching.num_ranks import check_num_ranks
    from heterotune.launching.worker_environment import usable_cores
    from heterotune.profiling.timing import Stopwatch
    from heterotune.report.live_display import LiveDisplay
    from heterotune.report.terminal import final_report, report_console, startup_table
    from heterotune.run_folder import RunFolder

    console, startup = report_console(), Stopwatch()
    startup.add("launcher: imports", time.process_time())  # a script may have become this process by exec
    with _errors_end_the_command():
        config = load_run(run_yaml, [*(overrides or []), *([f"output={output}"] if output else [])])
        check_num_ranks(config, ranks, num_cores=usable_cores(), oversubscribe=oversubscribe)
        with startup.phase("launcher: doctor"):
            prepare_run(config, ranks, lambda message: console.print(message, markup=False))
        with startup.phase("launcher: models, tokenizer, data"):
            preflight.check(config)
        folder = RunFolder.create(config, config.output, config.name)
        console.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
        folder.status({"state": "starting", "rounds": config.rounds})
        try:
            with LiveDisplay(console) as display:
                code = run_local(folder, ranks, threads_per_rank=config.threads_per_rank, on_status=display.show)
        except KeyboardInterrupt:
            typer.echo(f"Interrupted; the ranks were ended. What there is is in {folder.path}.", err=True)
            raise typer.Exit(130) from None
        if code != 0:
            told = f"The run failed (exit code {code}); its folder is {folder.path}."
            typer.echo(f"{told}\n{failure_text(folder)}", err=True)
            raise typer.Exit(1)
        summary = folder.read_summary()
        if profile_startup:
            console.print(startup_table({**startup.drain(), **summary["startup"]}))
        console.print(final_report(summary, folder.path))


@app.command()
def doctor(
    ds_config: Annotated[str, typer.Option(help="As in backbone.ds_config; its ops are built.")] = "zero3_cpu",
    fix: Annotated[bool, typer.Option("--fix", help="Clear stale build locks.")] = False,
) -> None:
    """Check what this machine has for a run: versions, MPI, compiler, GPU, DeepSpeed's compiled ops and their locks."""
    from heterotune.doctor import examine

    console = Console()
    with _errors_end_the_command():
        checks = examine(ds_config, fix=fix, say=lambda message: console.print(message, markup=False))
    table = Table(title="heterotune doctor", show_lines=False)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        detail = check.detail if check.ok else f"{check.detail}\n-> {check.fix}"
        table.add_row("ok" if check.ok else "NO", check.name, detail)
    console.print(table)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(app())
