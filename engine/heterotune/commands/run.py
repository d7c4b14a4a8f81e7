"""`heterotune run` and `heterotune resume`: a federation on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heterotune.commands.arguments import AsJson, Overrides, Quiet, RunDir, RunFile, named_or_default
from heterotune.commands.ending import INTERRUPTED, errors_end_the_command
from heterotune.config.load import load_run
from heterotune.errors import PREEMPTED, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from heterotune.local_run import LocalRun

Ranks = Annotated[int, typer.Option(help="MPI ranks on this machine; 1 = one process without MPI.")]
Oversubscribe = Annotated[bool, typer.Option("--oversubscribe", help="Allow many more ranks than cores.")]


def run(
    run_yaml: RunFile = None,
    ranks: Ranks = 1,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder in which the run folder is made.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with an earlier run instead of a run file.")
    ] = None,
    oversubscribe: Oversubscribe = False,
    profile_startup: Annotated[
        bool, typer.Option("--profile-startup", help="Say where the seconds before round 1 went.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a federation on this machine and show what came out of it."""
    from heterotune.report.terminal import report_console

    console = report_console(stderr=as_json, quiet=quiet)
    with errors_end_the_command():
        job = _prepare(run_yaml, ranks, overrides or [], output, resume, oversubscribe, console)
        console.print(f"run folder {job.folder.path}", markup=False, highlight=False, soft_wrap=True)
        _execute(job, console)
        _show_end(job, console, as_json=as_json, with_startup=profile_startup)


def resume(
    run_dir: RunDir,
    ranks: Ranks = 1,
    overrides: Overrides = None,
    oversubscribe: Oversubscribe = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that stopped, crashed or shall get more rounds, on any number of ranks."""
    run(None, ranks, overrides, None, run_dir, oversubscribe, False, quiet, as_json)


def _prepare(
    run_yaml: Path | None,
    ranks: int,
    overrides: list[str],
    output: Path | None,
    earlier: Path | None,
    oversubscribe: bool,
    console: Console,
) -> LocalRun:
    """Read the run file that was named, or that of the run to go on with, and check it."""
    from heterotune import local_run
    from heterotune.launching.local import open_to_resume

    settings = [*overrides, *([f"output={output}"] if output else [])]
    if earlier is None:
        path = named_or_default(run_yaml)
    else:
        _check_resume(run_yaml, output)
        path = open_to_resume(earlier).config_path
    return local_run.prepare(
        load_run(path, settings, begun=earlier is not None),
        ranks,
        earlier=earlier,
        overrides=settings,
        oversubscribe=oversubscribe,
        say=lambda message: console.print(message, markup=False),
    )


def _check_resume(run_yaml: Path | None, output: Path | None) -> None:
    """Refuse what does not go with --resume."""
    given = {"RUN.yaml": run_yaml, "--output": output}
    reason = "does not go with --resume, which goes on in the folder of the run as it was. Leave it out."
    if problems := [f"{name} = {value} {reason}" for name, value in given.items() if value is not None]:
        raise ConfigError(problems)


def _execute(job: LocalRun, console: Console) -> None:
    """Run the ranks under a live display; ends the command unless they ended well."""
    from heterotune.launching.local import failure_text
    from heterotune.launching.progress import saved_rounds, told
    from heterotune.report.live_display import LiveDisplay

    path = job.folder.path
    go_on = f"go on with `heterotune resume {path}`."
    try:
        with LiveDisplay(console) as display:
            code = job.execute(display.show)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; the ranks were ended. What there is is in {path}; {go_on}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if code == PREEMPTED:
        typer.echo(f"Stopped, saved after {told(saved_rounds(path))}; {go_on}", err=True)
        raise typer.Exit(code)
    if code != 0:
        typer.echo(f"The run failed (exit code {code}); its folder is {path}.\n{failure_text(job.folder)}", err=True)
        raise typer.Exit(1)


def _show_end(job: LocalRun, console: Console, *, as_json: bool, with_startup: bool) -> None:
    """Show what came out of a run that ended well."""
    from heterotune.report.terminal import final_report, startup_table

    summary = job.folder.read_summary()
    if with_startup:
        console.print(startup_table({**job.startup.drain(), **summary["startup"]}))
    if as_json:
        typer.echo(json.dumps({"run_dir": str(job.folder.path), "summary": summary}, indent=1))
    else:
        console.print(final_report(summary, job.folder.path))
