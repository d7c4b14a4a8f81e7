"""What was measured: a table with where it comes from above it, a plot of it, and a summary for the terminal."""

from __future__ import annotations

import csv
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import psutil

BASE = "heterotune"
COLUMNS = (
    "system",
    "run",
    "median_round_seconds",
    "mean_round_seconds",
    "times_heterotune",
    "adapter_difference",
    "load_average_before",
    "note",
)


@dataclass(frozen=True)
class Run:
    """One run of one system.

    Attributes:
        system: Its name.
        turn: From 1.
        round_seconds: The rounds that count.
        adapter_difference: From the first run's adapter, as a share of what was learned.
        load_average: Of the machine in the minute before.
        note: What the system chose by itself.
    """

    system: str
    turn: int
    round_seconds: np.ndarray
    adapter_difference: float
    load_average: float
    note: str = ""

    @property
    def median_seconds(self) -> float:
        """The run's figure."""
        return float(median(self.round_seconds))


def times_base(runs: Sequence[Run], run: Run) -> float | None:
    """Return how many times as long as heterotune's a run's round took in the same turn; None without heterotune."""
    base = [other for other in runs if other.system == BASE and other.turn == run.turn]
    return run.median_seconds / base[0].median_seconds if base else None


def facts(repository: Path, command: str, versions: Mapping[str, str]) -> dict[str, str]:
    """Return command, commit, hardware and versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": command.replace(f"{repository}/", ""),
        "commit": commit_of(repository),
        "hardware": f"{_processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def write(path: Path, runs: Sequence[Run], header: Mapping[str, str]) -> None:
    """Write the table as CSV, with the header and the summary as comments above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        for key, value in header.items():
            file.write(f"# {key}: {value}\n")
        for line in summary(runs).splitlines():
            file.write(f"# {line}\n")
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for run in runs:
            times = times_base(runs, run)
            rows.writerow(
                [
                    run.system,
                    run.turn,
                    f"{run.median_seconds:.5f}",
                    f"{mean(run.round_seconds):.5f}",
                    "" if times is None else f"{times:.3f}",
                    f"{run.adapter_difference:.1e}",
                    f"{run.load_average:.2f}",
                    run.note,
                ]
            )


def summary(runs: Sequence[Run]) -> str:
    """Return a line for each system: median and range over its runs, and the median ratio to heterotune."""
    lines = []
    for system in dict.fromkeys(run.system for run in runs):
        mine = [run for run in runs if run.system == system]
        seconds = [run.median_seconds for run in mine]
        ratios = [times for run in mine if (times := times_base(runs, run)) is not None]
        ratio = f"{median(ratios):6.2f} x heterotune" if ratios else ""
        spread = f"{min(seconds):.4f} to {max(seconds):.4f} in {len(mine)} runs"
        lines.append(f"{system:<20} {median(seconds):8.4f} s a round ({spread}) {ratio}".rstrip())
    return "\n".join(lines)


def draw(table_file: Path, python: Path) -> None:
    """Draw the table beside it as PNG, with the peers' Python, which has matplotlib."""
    subprocess.run(
        [python, Path(__file__).with_name("plot.py"), table_file, table_file.with_suffix(".png")], check=True
    )


def commit_of(repository: Path) -> str:
    """Return a working tree's commit, and whether its code differs from that."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True).stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD") or "none yet"
    changed = git("status", "--porcelain", "--", "engine", "tools")
    return f"{head}, with changes" if changed else head


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
