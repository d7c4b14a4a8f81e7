"""The picture of an evidence table: what each arm gains over the baseline, with its confidence interval.

A gain that one seed alone knows has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evidence_arms import BASELINE

from heterotune.report.plots import colors
from heterotune.report.plots.plot import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, object]
GAIN, HALF = f"gain_over_{BASELINE}", f"gain_over_{BASELINE}_ci95"
INCHES_OF_ARM, INCHES_OF_FRAME = 0.2, 0.9


def gains_plot(table: str, rows: Sequence[Row]) -> Plot | None:
    """Return a picture with one panel for each task, setting and fleet, and one line for each arm; None without gains.

    Args:
        table: Its name.
        rows: As `table_rows` makes them; those without a gain are left out.
    """
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row["arm"] != BASELINE and row[GAIN] != "":
            panels.setdefault(f"{row['task']}, {row['setting']}, {row['fleet']}", []).append(row)
    if not panels:
        return None
    heights = [INCHES_OF_FRAME + INCHES_OF_ARM * len(mine) for mine in panels.values()]

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, mine) in zip(all_axes, panels.items(), strict=True):
            places = range(len(mine))[::-1]
            gains = [float(str(row[GAIN])) for row in mine]
            halves = [math.nan if row[HALF] == "" else float(str(row[HALF])) for row in mine]  # nan draws no interval
            axes.errorbar(gains, places, xerr=halves, fmt="o", color=colors.SERIES[0], capsize=2.5, linewidth=1.2)
            axes.axvline(0, color=colors.MUTED, linewidth=1.0)
            axes.set_yticks(list(places), [str(row["arm"]) for row in mine])
            axes.set_ylim(-0.5, len(mine) - 0.5)
            axes.set_title(title)
        all_axes[-1].set_xlabel(f"gain over {BASELINE} in points of accuracy, 95 % confidence interval")

    columns = ("task", "setting", "fleet", "arm", "seeds", GAIN, HALF)
    numbers = [[row[name] for name in columns] for mine in panels.values() for row in mine]
    text = f"Gains over {BASELINE}, seed by seed, of every arm of table {table}."
    return Plot(f"evidence_{table}", f"Evidence: {table}", text, text, draw, sum(heights), columns, numbers)
