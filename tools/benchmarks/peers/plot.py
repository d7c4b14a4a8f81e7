"""Draws a table of `report.py`: a bar for each system's median, a dot for each of its runs."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def draw(table_file: Path, picture_file: Path) -> None:
    """Draw the table as PNG."""
    lines = table_file.read_text(encoding="utf-8").splitlines()
    header = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    systems = list(dict.fromkeys(row["system"] for row in rows))[::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(systems) + 1.6), layout="constrained")
    for place, system in enumerate(systems):
        mine = [row for row in rows if row["system"] == system]
        seconds = [float(row["median_round_seconds"]) for row in mine]
        axes.barh(place, median(seconds), color="tab:orange" if system.startswith("heterotune") else "tab:gray")
        axes.plot(seconds, [place] * len(seconds), "k.", markersize=5)
        ratios = [float(row["times_heterotune"]) for row in mine if row["times_heterotune"]]
        ratio = f" ({median(ratios):.1f}×)" if ratios else ""
        axes.annotate(f" {median(seconds):.3f} s{ratio}", (max(seconds), place), va="center", fontsize=9)
    axes.set_yticks(range(len(systems)), systems)
    axes.set_xlim(0, 1.3 * max(float(row["median_round_seconds"]) for row in rows))
    axes.set_xlabel("seconds per round; dots are runs; × is the median ratio to heterotune within a turn")
    axes.set_title(f"Work {header['work'].partition(':')[0]}: the same federated LoRA job, 2 threads, equal adapters")
    figure.supxlabel(f"{header['hardware']} · commit {header['commit']}", fontsize=7)
    figure.savefig(picture_file, dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
