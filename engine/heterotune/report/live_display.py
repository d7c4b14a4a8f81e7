"""The live display of a run: a progress bar on a terminal, one plain line per round elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from heterotune.report.quantities import format_number


class LiveDisplay:
    """Shows statuses as they come; use as a context manager."""

    def __init__(self, console: Console) -> None:
        """Choose the form.

        Args:
            console: Where to show; a bar if it is a terminal, lines if not.
        """
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._last_status: Mapping[str, Any] | None = None
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._progress = Progress(
                *columns, TextColumn("{task.fields[note]}"), console=console, refresh_per_second=5
            )

    def __enter__(self) -> LiveDisplay:
        """Begin to draw."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._progress is None and self._last_status is not None:
            self._print_round(self._last_status)
        if self._progress is not None:
            self._progress.stop()

    def show(self, status: Mapping[str, Any]) -> None:
        """Show a status.

        Args:
            status: {"state", "strategy", "round", "rounds", "phase", "loss": {model type: value}}; keys may be missing.
        """
        if self._progress is None:
            self._print_if_new(status)
        else:
            self._move_bar(self._progress, status)

    def _move_bar(self, progress: Progress, status: Mapping[str, Any]) -> None:
        name = _title(status)
        rounds = status.get("rounds")
        if name not in self._tasks:
            self._tasks[name] = progress.add_task(name, total=rounds, note="")
        note = "  ".join(part for part in (_phase(status), _losses(status)) if part)
        progress.update(self._tasks[name], completed=_rounds_done(status), total=rounds, note=note)

    def _print_if_new(self, status: Mapping[str, Any]) -> None:
        """Announce a new state; print a round when the next one begins, because only then all its losses are there."""
        last, self._last_status = self._last_status, status
        if last is not None and (_title(last), last.get("round")) != (_title(status), status.get("round")):
            self._print_round(last)
        if last is None or _title(last) != _title(status):
            self._print(f"{_title(status)} ...")

    def _print_round(self, status: Mapping[str, Any]) -> None:
        if losses := _losses(status):
            self._print(f"{_title(status)}  round {status.get('round', '?')}/{status.get('rounds', '?')}  {losses}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _title(status: Mapping[str, Any]) -> str:
    return str(status.get("strategy") or status.get("state") or "run")


def _rounds_done(status: Mapping[str, Any]) -> int:
    """A round counts as done when the next one begins, or with its evaluation."""
    round_number = int(status.get("round") or 0)
    is_over = status.get("phase") == "evaluate" or status.get("state") == "done"
    return round_number if is_over else max(0, round_number - 1)


def _phase(status: Mapping[str, Any]) -> str:
    return str(status.get("phase") or status.get("state") or "")


def _losses(status: Mapping[str, Any]) -> str:
    loss = status.get("loss") or {}
    return "loss " + "  ".join(f"{name} {format_number(value)}" for name, value in loss.items()) if loss else ""
