"""A run's status on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import ConsoleRenderable, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heterotune.launching.progress import told
from heterotune.report.quantities import format_bytes, format_number, format_seconds
from heterotune.status.run_status import RankPresence, RunStatus

_STYLES = {"running": "green", "finished": "bold green", "failed": "bold red", "stopped": "yellow"}
_BAR_WIDTH = 40


def status_view(status: RunStatus) -> ConsoleRenderable:
    """Return everything about a run."""
    table = Table.grid(padding=(0, 2))
    table.add_row("run folder", Text(status.run_dir, overflow="fold"))
    state = Text(status.state, style=_STYLES.get(status.state, ""))
    table.add_row("state", state.append(f"  {status.reason}" if status.reason else "", style="default"))
    for name, text in _facts(status):
        table.add_row(name, Text(text, overflow="fold"))
    bar = ProgressBar(total=max(1, status.rounds), completed=status.rounds_done, width=_BAR_WIDTH)
    return Group(table, bar)


def status_line(status: RunStatus) -> str:
    """Return the same in one line, where there is no terminal to draw on."""
    parts = [status.state, f"{status.strategy} round {status.round}/{status.rounds}", status.phase, _losses(status)]
    left = "" if status.seconds_left is None else f"about {format_seconds(status.seconds_left)} left"
    return "  ".join(part for part in (*parts, left) if part)


def _facts(status: RunStatus) -> Iterator[tuple[str, str]]:
    """Yield what is known, name and text."""
    which = status.strategies.index(status.strategy) + 1 if status.strategy in status.strategies else 1
    several = f", {which} of {len(status.strategies)} methods" if len(status.strategies) > 1 else ""
    phase = f", {status.phase}" if status.phase else ""
    yield "round", f"{status.round} of {status.rounds} ({status.strategy}{several}{phase})"
    if status.loss:
        yield "held-out loss", _losses(status)
    if status.seconds_per_round is not None:
        left = "" if status.seconds_left is None else f", about {format_seconds(status.seconds_left)} left"
        yield "time", f"{format_seconds(status.seconds_per_round)} a round{left}"
    if status.ranks:
        yield "ranks", _ranks(status.ranks, were=status.state == "finished")
    if status.job:
        yield "Slurm job", status.job
    age = status.checkpoint_age_seconds
    yield "saved", told(status.checkpoint) + ("" if age is None else f", {format_seconds(age)} ago")
    if status.seconds_since_sign is not None and not status.has_ended:
        yield "last sign", f"{format_seconds(status.seconds_since_sign)} ago"
    yield "on disk", format_bytes(status.disk_bytes)


def _losses(status: RunStatus) -> str:
    """Return each model type's loss, and where it came from."""
    texts = []
    for name, loss in status.loss.items():
        round_number, before = status.loss_before.get(name, (0, loss))
        since = "" if before == loss else f" (round {round_number}: {format_number(before)})"
        texts.append(f"{name} {format_number(loss)}{since}")
    return "  ".join(texts)


def _ranks(ranks: tuple[RankPresence, ...], *, were: bool) -> str:
    """Return how many ranks are alive on which host, or how many there were."""
    texts = []
    for host, num_ranks in Counter(rank.host for rank in ranks).items():
        mine = [rank for rank in ranks if rank.host == host]
        if were:
            texts.append(f"{num_ranks} on {host}")
        elif any(rank.alive is None for rank in mine):
            texts.append(f"{num_ranks} on {host} (another host)")
        else:
            texts.append(f"{sum(rank.alive is True for rank in mine)} of {num_ranks} alive on {host}")
    return ", ".join(texts)
