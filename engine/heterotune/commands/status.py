"""`heterotune status`: how a run is doing, once or until it ends."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heterotune.commands.arguments import AsJson, RunDir
from heterotune.commands.ending import INTERRUPTED, errors_end_the_command
from heterotune.errors import PREEMPTED, ConfigError
from heterotune.run_folder import CONFIG_FILE

if TYPE_CHECKING:
    from rich.console import Console

    from heterotune.status.run_status import RunStatus

_CODES = {"finished": 0, "stopped": PREEMPTED, "failed": 1}


def status(
    run_dir: RunDir,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing it until the run has ended.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --follow.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show how a run is doing: round, losses, time left, ranks, checkpoint. Reads its folder only."""
    from heterotune.report.terminal import report_console
    from heterotune.status.run_status import read_status
    from heterotune.status.view import status_view

    console = report_console()
    with errors_end_the_command():
        if seeds := _seeds_of(run_dir):
            _show_seeds(run_dir, seeds, follow=follow, as_json=as_json)
            return
        now = read_status(run_dir)
        if follow:
            raise typer.Exit(_follow(run_dir, now, interval, console, as_json=as_json))
        if as_json:
            typer.echo(json.dumps(_as_json(now), indent=1))
        else:
            console.print(status_view(now))


def _seeds_of(run_dir: Path) -> list[Path]:
    """Return the run folders of a job array, `seed-N`; none for a run's own folder."""
    seeds = [] if (run_dir / CONFIG_FILE).is_file() else [path.parent for path in run_dir.glob(f"seed-*/{CONFIG_FILE}")]
    return sorted(seeds, key=lambda path: (len(path.name), path.name))


def _show_seeds(run_dir: Path, seeds: list[Path], *, follow: bool, as_json: bool) -> None:
    """Show the runs of a job array, one a line."""
    from heterotune.status.run_status import read_status
    from heterotune.status.view import status_line

    if follow:
        raise ConfigError([f"{run_dir} holds {len(seeds)} runs. Follow one of them, e.g. {seeds[0]}."])
    now = [read_status(path) for path in seeds]
    lines = [f"{path.name}  {status_line(each)}" for path, each in zip(seeds, now, strict=True)]
    typer.echo(json.dumps([_as_json(each) for each in now], indent=1) if as_json else "\n".join(lines))


def _follow(run_dir: Path, now: RunStatus, interval: float, console: Console, *, as_json: bool) -> int:
    """Show a run until it ends: drawn anew on a terminal, elsewhere a line or a JSON object for every change.

    Returns:
        0, 75 or 1, as the run finished, stopped or failed.
    """
    from heterotune.status.run_status import read_status

    said = ""
    try:
        with _display(console, is_drawn=console.is_terminal and not as_json) as show:
            while True:
                line = json.dumps(_as_json(now)) if as_json else show(now)
                if line is not None and line != said:
                    typer.echo(line)
                said = line
                if now.has_ended:
                    return _CODES[now.state]
                time.sleep(interval)
                now = read_status(run_dir)
    except KeyboardInterrupt:
        typer.echo("No longer watched; the run goes on.", err=True)
        return INTERRUPTED


@contextmanager
def _display(console: Console, *, is_drawn: bool) -> Iterator[Callable[[RunStatus], str | None]]:
    """Yield what shows a status: it draws, or returns the line to print."""
    from rich.live import Live

    from heterotune.status.view import status_line, status_view

    if not is_drawn:
        yield status_line
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda now: live.update(status_view(now), refresh=True)


def _as_json(now: RunStatus) -> dict[str, object]:
    return dataclasses.asdict(now)
