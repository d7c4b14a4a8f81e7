"""A plot as a report needs it, and drawing it once for SVG, PNG and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterotune.report.plots import colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 7.5
_PNG_DPI = 150
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "heterotune",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": colors.INK,
    "axes.edgecolor": colors.MUTED,
    "axes.labelcolor": colors.INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": colors.GRID,
    "grid.linewidth": 0.8,
    "xtick.color": colors.MUTED,
    "ytick.color": colors.MUTED,
    "xtick.labelcolor": colors.INK,
    "ytick.labelcolor": colors.INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "figure.facecolor": colors.PAPER,
    "savefig.facecolor": colors.PAPER,
}

Cell = str | int | float | None


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: Its file name without ending, and its anchor on the page.
        title: Above it.
        text: What it shows.
        told: What can be seen in it, in words: the alternative to the picture.
        draw: Draws it into an empty figure.
        height_inches: Of the figure.
        columns: Heads of its numbers.
        rows: Its numbers.
        notes: What was thinned out, left out or estimated.
        frames: For a plot that a slider moves: cell -> its values, see `conflicts`; {} = it stands still.
    """

    name: str
    title: str
    text: str
    told: str
    draw: Callable[[Figure], None]
    height_inches: float
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    frames: dict[str, object] | None = None

    def csv(self) -> str:
        """Return its numbers as CSV."""
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(self.columns)
        table.writerows(self.rows)
        return stream.getvalue()


@dataclass(frozen=True)
class Picture:
    """A plot that was drawn.

    Attributes:
        plot: Which.
        svg: A whole SVG document as matplotlib writes it.
        png: The same as PNG; empty if nobody asked for it.
    """

    plot: Plot
    svg: str
    png: bytes


def render(plot: Plot, *, png: bool = False) -> Picture:
    """Draw a plot."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, plot.height_inches), layout="constrained")
        plot.draw(figure)
        svg, raster = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        if png:
            figure.savefig(raster, format="png", dpi=_PNG_DPI)
    return Picture(plot, svg.getvalue(), raster.getvalue())
