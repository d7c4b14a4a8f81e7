"""A grid of runs that can be interrupted: what each cell was asked for, at which commit, which are done, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from heterotune.config.load import dump_run
from heterotune.config.schema import RunConfig
from heterotune.errors import LaunchError
from heterotune.run_folder import RunFolder

REPOSITORY = Path(__file__).resolve().parents[2]


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


class SeedCell:
    """Where the runs of a cell with a name, a seed and a folder of all runs lie.

    Attributes:
        name: What it is, in one word.
        seed: The run's.
        out: Folder of all runs.
    """

    name: str
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / "runs" / self.name / f"seed-{self.seed}"

    @property
    def asked(self) -> Path:
        """The run that it was asked for."""
        return self.out / "asked" / f"{self.name}-seed-{self.seed}.yaml"


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


def work_of(cell: GridCell, config: RunConfig) -> Callable[[], int]:
    """Return what a forked child does for a cell: the whole run, as a rank of its own."""

    def work() -> int:
        from heterotune.worker import main as run_rank

        folder, goes_on = open_cell(cell, config)
        return run_rank([str(folder.config_path), "--run-dir", str(folder.path), *(["--resume"] if goes_on else [])])

    return work


def note_asked(cell: GridCell, config: RunConfig) -> None:
    """Keep what a cell was asked for, and of which commit."""
    from tables import commit_of

    cell.asked.parent.mkdir(parents=True, exist_ok=True)
    _commit_file(cell).write_text(commit_of(REPOSITORY), encoding="utf-8")
    cell.asked.write_text(dump_run(config), encoding="utf-8")


def commits_text(cells: Iterable[GridCell]) -> str:
    """Return at which commits cells were begun, and how many at each."""
    files = [_commit_file(cell) for cell in cells]
    counts = Counter(file.read_text(encoding="utf-8") if file.exists() else "not noted" for file in files)
    return ", ".join(f"{commit} ({number})" for commit, number in counts.most_common())


def _commit_file(cell: GridCell) -> Path:
    return cell.asked.with_suffix(".commit")
