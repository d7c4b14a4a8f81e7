"""Heat maps that read on light and dark pages: a cell is one colour, more or less see-through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterotune.report.plots.colors import AMOUNT, MUTED, NEGATIVE, POSITIVE
from heterotune.report.plots.svg import CELL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONGEST = 0.72
"""Above this the numbers in the cells would be hard to read."""
_MOST_NUMBERS = 260

Grid = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class HeatMap:
    """Cells of one panel.

    Attributes:
        values: Rows of cells; None = there is no value.
        row_names: Left of them.
        column_names: Below them.
        scale: The value of the strongest colour.
        told: Writes a value into its cell.
        ids: Begins the ids of cells that a script may move; "" = none does.
    """

    values: Grid
    row_names: Sequence[str]
    column_names: Sequence[str]
    scale: float
    told: Callable[[float], str]
    ids: str = ""


def draw_heat_map(axes: Axes, heat_map: HeatMap, *, is_signed: bool, title: str = "") -> None:
    """Draw a heat map.

    Args:
        axes: Empty.
        heat_map: What to draw.
        is_signed: Two colours, for values of both signs, else one.
        title: Above it.
    """
    from matplotlib.patches import Rectangle

    num_rows, num_columns = len(heat_map.row_names), len(heat_map.column_names)
    has_numbers = num_rows * num_columns <= _MOST_NUMBERS
    for i, row in enumerate(heat_map.values):
        for j, value in enumerate(row):
            if value is None and not heat_map.ids:
                continue
            cell = Rectangle((j, i), 1, 1, facecolor=color_of(value, is_signed), linewidth=0)
            cell.set_alpha(strength(value, heat_map.scale))
            axes.add_patch(cell)
            words = axes.text(j + 0.5, i + 0.5, _told(value, heat_map), ha="center", va="center", fontsize=8)
            words.set_visible(has_numbers)
            if heat_map.ids:
                cell.set_gid(f"{CELL}{heat_map.ids}-{i}-{j}")
                words.set_gid(f"{CELL}{heat_map.ids}-{i}-{j}-text")
    axes.set(xlim=(0, num_columns), ylim=(num_rows, 0), title=title)
    axes.set_xticks([j + 0.5 for j in range(num_columns)], heat_map.column_names, fontsize=8)
    axes.set_yticks([i + 0.5 for i in range(num_rows)], heat_map.row_names, fontsize=8)
    if max(map(len, heat_map.column_names), default=0) * num_columns > 45:
        axes.tick_params(axis="x", rotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def strength(value: float | None, scale: float) -> float:
    """Return how opaque a cell of this value is."""
    return 0.0 if value is None or scale <= 0 else STRONGEST * min(1.0, abs(value) / scale)


def color_of(value: float | None, is_signed: bool) -> str:
    """Return a cell's colour."""
    if value is None:
        return MUTED
    return AMOUNT if not is_signed else POSITIVE if value >= 0 else NEGATIVE


def _told(value: float | None, heat_map: HeatMap) -> str:
    if value is None:
        return "·" if heat_map.ids else ""
    return heat_map.told(value)
