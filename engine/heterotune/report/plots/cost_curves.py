"""Learning curves over what the simulated world spent: virtual time, energy, bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

from heterotune.report.costs import BYTES, JOULES, SECONDS, Cost, by_cost
from heterotune.report.plots.learning import ALL_TYPES, KINDS, CurveKind, curve_points
from heterotune.report.plots.panels import Line, draw_panels, panels_height, panels_note
from heterotune.report.plots.plot import Plot
from heterotune.report.quantities import bytes_unit, energy_unit, time_unit
from heterotune.report.run_record import StrategyRecord

_UNITS = {SECONDS: time_unit, JOULES: energy_unit, BYTES: bytes_unit}
_DRAWN = [kind for kind in KINDS if kind.metric in ("loss/eval", "accuracy/eval")]
_MOST_TOLD = 6


def cost_plots(contestants: Mapping[str, Sequence[StrategyRecord]], model_types: Sequence[str]) -> Iterator[Plot]:
    """Yield held-out loss and accuracy over each cost that was counted.

    Args:
        contestants: Label -> runs that differ only in their seed; their mean is drawn.
        model_types: Of all fleets.
    """
    for cost in (SECONDS, JOULES, BYTES):
        for kind in _DRAWN:
            panels = {
                name: [
                    line
                    for place, each in enumerate(contestants.items())
                    for line in _line(*each, place, cost, kind, name)
                ]
                for name in (ALL_TYPES, *model_types)
            }
            panels = {name: lines for name, lines in panels.items() if lines}
            if panels:
                yield _plot(cost, kind, panels)


def _line(
    label: str, runs: Sequence[StrategyRecord], place: int, cost: Cost, kind: CurveKind, model_type: str
) -> Iterator[Line]:
    """Yield the mean of runs that were evaluated equally often."""
    curves = [by_cost(run, cost, curve_points(run, kind.metric, model_type)) for run in runs]
    curves = [curve for curve in curves if curve]
    if curves and len({len(curve) for curve in curves}) == 1:
        columns = zip(*curves, strict=True)
        yield Line(label, [(fmean(x for x, _ in column), fmean(y for _, y in column)) for column in columns], place)


def _plot(cost: Cost, kind: CurveKind, panels: Mapping[str, Sequence[Line]]) -> Plot:
    most = max(line.points[-1][0] for lines in panels.values() for line in lines)
    scale, unit = _UNITS[cost](most)
    shown = {
        name: [Line(line.label, [(x / scale, y) for x, y in line.points], line.place) for line in lines]
        for name, lines in panels.items()
    }
    told = [
        f"{name}, {line.label}: {line.points[-1][1]:.3f} after {cost.written(line.points[-1][0])}"
        for name, lines in panels.items()
        for line in lines
    ]
    title = f"{kind.title} over {cost.title}"
    return Plot(
        f"{kind.name}-over-{cost.title.replace(' ', '-')}",
        title,
        f"After every evaluated round, against what all clients of the fleet had spent by then: {cost.title}.",
        "; ".join(told[:_MOST_TOLD]) + ("; ..." if len(told) > _MOST_TOLD else "."),
        partial(draw_panels, panels=shown, x_label=f"{cost.title} so far, {unit}", y_label=kind.unit),
        panels_height(len(panels)),
        ("strategy", "model_type", cost.name, "value"),
        [(line.label, name, *point) for name, lines in panels.items() for line in lines for point in line.points],
        tuple(panels_note(len(panels))),
    )
