"""`heterotune compare`: runs side by side, mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from heterotune.errors import LaunchError
from heterotune.report.comparison import compare
from heterotune.report.comparison_page import (
    as_record,
    comparison_page,
    terminal_table,
    terminal_target_table,
    write_csv,
)
from heterotune.report.targets import parse_targets
from heterotune.report_command import publish


def compare_runs(
    paths: Sequence[Path],
    out: Path | None,
    csv: Path | None,
    plots: Path | None,
    *,
    targets: Sequence[str] = (),
    as_json: bool,
    console: Console,
) -> None:
    """Show runs side by side.

    Args:
        paths: Run folders, or folders of run folders.
        out: Write a page there; None = none.
        csv: Write the figures there; None = nowhere.
        plots: Folder for PNG, SVG and CSV of every plot; None = they are not written.
        targets: `loss=2.5`, ...: what it took to reach them is told; none = chosen, where runs have a clock.
        as_json: Print JSON to standard output instead of the table.
        console: For the table and for what was written.

    Raises:
        LaunchError: If a path is no run folder and holds none, or if something cannot be written.
        ConfigError: If a target is none.
    """
    wanted = parse_targets(targets)
    comparison = compare(paths)
    if as_json:
        print(json.dumps(as_record(comparison, wanted), indent=1))
    else:
        console.print(terminal_table(comparison))
        if (table := terminal_target_table(comparison, wanted)) is not None:
            console.print(table)
        for sentence in dict.fromkeys(comparison.missing):
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    told = Console(stderr=True) if as_json else console
    if csv is not None:
        try:
            with csv.open("w", encoding="utf-8", newline="") as file:
                write_csv(comparison, file)
        except OSError as error:
            raise LaunchError(f"{csv}: {error.strerror}. Name a file that can be written with --csv.") from error
        told.print(f"wrote {csv}", markup=False, highlight=False, soft_wrap=True)
    if out is not None or plots is not None:
        publish(comparison_page(comparison, wanted), out, plots, told)
