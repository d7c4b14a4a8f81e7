"""Small multiples: one panel for each model type, one line for each strategy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterotune.report.plots.colors import line_style, series_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
COLUMNS = 2
_PANEL_INCHES = 2.15
_LEGEND_INCHES = 0.45
_MANY_POINTS = 30
_LEGEND_CHARACTERS = 110

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line in a panel.

    Attributes:
        label: In the legend.
        points: (x, y).
        place: Which colour and style.
        faint: Drawn thin, as company of another line of the same colour.
        band: (x, low, high) around it; a spread.
    """

    label: str
    points: Points
    place: int
    faint: bool = False
    band: Sequence[tuple[float, float, float]] = ()


def panels_height(num_panels: int) -> float:
    """Return the inches that so many panels need."""
    shown = min(num_panels, MOST_PANELS)
    return _LEGEND_INCHES + _PANEL_INCHES * -(-shown // COLUMNS)


def panels_note(num_panels: int) -> Iterator[str]:
    """Say if some panels are left out."""
    if num_panels > MOST_PANELS:
        yield f"Only the first {MOST_PANELS} of {num_panels} model types are drawn; the CSV has all."


def draw_panels(
    figure: Figure, panels: Mapping[str, Sequence[Line]], x_label: str, y_label: str, *, is_log: bool = False
) -> None:
    """Draw lines in panels.

    Args:
        figure: Empty.
        panels: Title -> its lines.
        x_label: Below the lowest panels.
        y_label: Left of all.
        is_log: Whether x is logarithmic.
    """
    shown = list(panels.items())[:MOST_PANELS]
    num_columns = min(COLUMNS, len(shown))
    num_rows = -(-len(shown) // num_columns)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    handles: dict[str, object] = {}
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        title, lines = shown[place]
        axes.set_title(title)
        for line in lines:
            handles.setdefault(line.label, draw_line(axes, line))
        axes.margins(x=0.02)
        axes.set_xscale("log" if is_log else "linear")
        if place >= len(shown) - num_columns:
            axes.set_xlabel(x_label)
    figure.supylabel(y_label, fontsize=9)
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=_legend_columns(handles))


def _legend_columns(labels: Collection[str]) -> int:
    """Return how many labels stand side by side in the width of a page."""
    return max(1, min(4, len(labels), _LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))


def draw_line(axes: Axes, line: Line) -> object:
    """Draw a line with its band; markers where the points are few."""
    color = series_color(line.place)
    if line.band:
        x, low, high = zip(*line.band, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    x, y = zip(*line.points, strict=True) if line.points else ((), ())
    marker = "o" if len(line.points) <= _MANY_POINTS and not line.faint else None
    style = ":" if line.faint else line_style(line.place)
    width = 1.2 if line.faint else None
    (handle,) = axes.plot(x, y, color=color, linestyle=style, marker=marker, markersize=3, linewidth=width)
    return handle


def draw_single(figure: Figure, lines: Sequence[Line], x_label: str, y_label: str) -> Axes:
    """Draw lines in one panel, with a legend beside it."""
    axes = figure.subplots()
    for line in lines:
        draw_line(axes, line).set_label(line.label)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.02)
    if len(lines) > 1:
        figure.legend(loc="outside upper center", ncols=4)
    return axes
