"""A grid of runs that can be interrupted: what each cell was asked for, which are done, and the folder of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from heterotune.config.load import dump_run
from heterotune.config.schema import RunConfig
from heterotune.errors import LaunchError
from heterotune.run_folder import RunFolder


class GridCell(Protocol):
    """One run of a grid.

    Attributes:
        folder: Its run folder, which may not be there yet.
        asked: The run that it was asked for, before "auto" became something; there once the cell was begun.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def asked(self) -> Path: ...


def is_done(cell: GridCell) -> bool:
    """Return whether a cell's run has come to its end."""
    return cell.folder.is_dir() and RunFolder.open(cell.folder).find_summary() is not None


def check_asked(configs: Mapping[GridCell, RunConfig]) -> None:
    """Refuse to mix runs of unlike settings in one table.

    Raises:
        LaunchError: If a cell was begun with other settings; names all such cells.
    """
    others = [
        str(cell.folder)
        for cell, config in configs.items()
        if cell.asked.exists() and cell.asked.read_text(encoding="utf-8") != dump_run(config)
    ]
    if others:
        raise LaunchError(f"{', '.join(others)}: begun with other settings. Restore those, or name another --output.")


def open_cell(cell: GridCell, config: RunConfig) -> tuple[RunFolder, bool]:
    """Return a cell's run folder, made if the cell is new, and whether its run goes on with what is in there."""
    if cell.asked.exists():
        return RunFolder.open(cell.folder), True
    cell.folder.mkdir(parents=True, exist_ok=True)
    folder = RunFolder.open(cell.folder)
    folder.log_folder.mkdir(exist_ok=True)
    folder.write_config(config)
    note_asked(cell, config)  # last: whoever is interrupted before begins again
    return folder, False


def note_asked(cell: GridCell, config: RunConfig) -> None:
    """Keep what a cell was asked for."""
    cell.asked.parent.mkdir(parents=True, exist_ok=True)
    cell.asked.write_text(dump_run(config), encoding="utf-8")
