"""`heterotune report`: one HTML page of a run, and its plots as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from heterotune.errors import LaunchError
from heterotune.report.page import Page, draw, write_page, write_plots
from heterotune.report.run_page import run_page
from heterotune.report.run_record import read_run
from heterotune.report.targets import parse_targets

REPORT_FILE = "report.html"


def report_run(
    run_dir: Path, out: Path | None, plots: Path | None, console: Console, targets: Sequence[str] = ()
) -> None:
    """Write the page of a run.

    Args:
        run_dir: The run folder; its run may be at work, have stopped or failed.
        out: The page; None = report.html in the run folder.
        plots: Folder for PNG, SVG and CSV of every plot; None = they are not written.
        console: Where to say what was written.
        targets: `loss=2.5`, ...: what it took to reach them is told; none = chosen, where the run has a clock.

    Raises:
        LaunchError: If it is no run folder, or nothing can be written there.
        ConfigError: If a target is none.
    """
    wanted = parse_targets(targets)
    run = read_run(run_dir)
    target = out or run.folder / REPORT_FILE
    publish(run_page(run, wanted), target, plots, console)
    for sentence in run.all_missing():
        _say(console, f"missing: {sentence}")


def publish(page: Page, target: Path | None, plots: Path | None, console: Console) -> None:
    """Draw a page and write it, its plots, or both; as `report_run`."""
    try:
        pictures = draw(page, png=plots is not None)
        if plots is not None:
            written = list(write_plots(pictures, plots))
            _say(console, f"wrote {len(written)} files into {plots}")
        if target is not None:
            num_bytes = _write_whole(target, write_page(page, pictures))
            _say(console, f"wrote {target} ({num_bytes / 1e6:.2f} MB)")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = f"{where}{error.strerror}. Name a place that can be written to with --out and --plots."
        raise LaunchError(told) from error


def _write_whole(path: Path, text: str) -> int:
    """Write a file that others see only when it is complete; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path.stat().st_size


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
