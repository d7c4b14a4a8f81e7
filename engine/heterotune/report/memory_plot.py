"""A run's memory as a picture: a bar for each phase and MPI rank, stacked by component."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heterotune.profiling.components import COMPONENTS, UNEXPLAINED
from heterotune.profiling.run_profile import PhasePeak
from heterotune.report.memory_profile import shown_peaks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = 2**20
_INK = "#1c2128"


def plot_peaks(peaks: Sequence[PhasePeak], title: str, path: Path) -> None:
    """Draw peaks of one kind into a file.

    Args:
        peaks: At least one; of many MPI ranks the highest and lowest of each phase are drawn.
        title: Above the bars.
        path: Ends in .png.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, peaks_height(peaks)))
    draw_peaks(figure, peaks, title)
    figure.savefig(path, dpi=120, bbox_inches="tight", format="png")


def peaks_height(peaks: Sequence[PhasePeak]) -> float:
    """Return the inches that the bars of these peaks need."""
    return 1.6 + 0.24 * len(shown_peaks(peaks))


def draw_peaks(figure: Figure, peaks: Sequence[PhasePeak], title: str = "") -> None:
    """Draw peaks of one kind into an empty figure; as `plot_peaks`."""
    shown = shown_peaks(peaks)
    axes = figure.subplots()
    places = list(range(len(shown)))[::-1]
    left = [0.0] * len(shown)
    for color, component in zip(_colors(), (*COMPONENTS, UNEXPLAINED), strict=True):
        widths = [max(0, _bytes_of(peak, component)) / _MIB for peak in shown]
        if any(widths):
            axes.barh(places, widths, left=left, color=color, label=component.replace("_", " "))
            left = [before + width for before, width in zip(left, widths, strict=True)]
    estimates = [(place, peak.estimate_bytes) for place, peak in zip(places, shown, strict=True) if peak.estimate_bytes]
    if estimates:
        axes.plot(
            *([size / _MIB for _, size in estimates], [place for place, _ in estimates], "|"),
            **{"color": _INK, "markersize": 9, "markeredgewidth": 1.5, "label": "estimate"},
        )
    axes.set_yticks(places, [f"{peak.phase}, rank {peak.mpi_rank}" for peak in shown], fontsize=8)
    axes.set_xlabel("MiB")
    axes.margins(y=0.01)
    axes.set_title(title)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _bytes_of(peak: PhasePeak, component: str) -> int:
    """Return a component's bytes; where none is known the whole peak is unexplained."""
    if component != UNEXPLAINED:
        return peak.components.get(component, 0)
    return peak.peak_bytes if peak.unexplained_bytes is None else peak.unexplained_bytes


def _colors() -> list[str]:
    """Return a color for each component; grey is no data of the run: runtime, allocator, unexplained."""
    of_data = iter(("#1f77b4", "#9ecae1", "#d62728", "#ff9896", "#2ca02c", "#98df8a", "#9467bd", "#ff7f0e"))
    greys = {"runtime": "#bdbdbd", "allocator": "#737373", UNEXPLAINED: _INK}
    return [greys.get(component) or next(of_data) for component in (*COMPONENTS, UNEXPLAINED)]
