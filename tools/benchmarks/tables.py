"""Writes a benchmark's table as CSV, with where it comes from above it."""

from __future__ import annotations

import csv
import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(Path(__file__).parent / "peers"))

from report import commit_of, facts  # noqa: E402

__all__ = ["commit_of", "require_matplotlib", "table_header", "write_table"]

PACKAGES = ("torch", "deepspeed", "transformers", "mpi4py", "numpy")


def write_table(path: Path, rows: Sequence[Mapping[str, object]], notes: Sequence[str] = ()) -> None:
    """Write rows of equal columns, under comment lines with command, commit, hardware, versions and notes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in table_header().items())
        file.writelines(f"# {note}\n" for note in notes)
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def table_header() -> dict[str, str]:
    """Return where a table comes from: date, command, commit, hardware, versions, and how busy the machine was."""
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    versions = {"python": sys.version.split()[0]} | {package: version(package) for package in PACKAGES}
    return facts(REPOSITORY, command, versions) | {"load average at the end": f"{os.getloadavg()[0]:.2f}"}


def require_matplotlib() -> None:
    """Stop before anything is measured if nothing could be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("Plots need matplotlib. Run `pip install matplotlib`, or add --no-plot.")
