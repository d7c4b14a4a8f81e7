"""Groups of runs side by side: learning curves with a band over seeds, bytes against loss, final figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from heterotune.report.comparison import Comparison, Group
from heterotune.report.plots.colors import series_color
from heterotune.report.plots.learning import ALL_TYPES, KINDS, CurveKind, curve_points
from heterotune.report.plots.message_bytes import loss_by_bytes
from heterotune.report.plots.panels import Line, draw_panels, panels_height, panels_note
from heterotune.report.plots.plot import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAND = "A band is one standard deviation over seeds to each side of the mean."
_MOST_LINES = 30

Curve = Sequence[tuple[float, float]]


def learning_group_plots(comparison: Comparison) -> Iterator[Plot]:
    """Yield final losses, and a plot for each kind of curve that some run has."""
    types = model_types(comparison)
    yield from _final_plot(comparison, types)
    for kind in KINDS:
        panels = {name: _lines(kind, comparison.groups, name) for name in types}
        panels = {name: lines for name, lines in panels.items() if lines}
        if panels:
            yield _curves(kind, panels)


def bytes_group_plots(comparison: Comparison) -> Iterator[Plot]:
    """Yield bytes against loss."""
    panels = {
        name: [line for place, group in enumerate(comparison.groups) for line in _bytes_line(group, name, place)]
        for name in model_types(comparison)
    }
    panels = {name: lines for name, lines in panels.items() if lines}
    if panels:
        yield Plot(
            "bytes-and-quality",
            "Bytes against quality",
            "Held-out loss against the bytes that all clients of a model type have sent and got so far; means of runs.",
            "",
            partial(draw_panels, panels=panels, x_label="MiB up and down so far", y_label="loss, nats/token"),
            panels_height(len(panels)),
            ("group", "model_type", "mebibytes", "loss"),
            [(line.label, name, *point) for name, lines in panels.items() for line in lines for point in line.points],
            tuple(panels_note(len(panels))),
        )


def model_types(comparison: Comparison) -> list[str]:
    """Return the model types of all fleets, in their order."""
    return list(dict.fromkeys(name for group in comparison.groups for name in group.model_types if name != ALL_TYPES))


def mean_and_band(curves: Sequence[Curve]) -> tuple[Curve, list[tuple[float, float, float]]]:
    """Return (x, mean) and (x, mean − std, mean + std) of runs, where all of them have a value."""
    common = set.intersection(*({x for x, _ in curve} for curve in curves))
    values = {x: [dict(curve)[x] for curve in curves] for x in sorted(common)}
    means = [(x, fmean(found)) for x, found in values.items()]
    if len(curves) < 2:
        return means, []
    spreads = [stdev(found) for found in values.values()]
    return means, [(x, mean - std, mean + std) for (x, mean), std in zip(means, spreads, strict=True)]


def _lines(kind: CurveKind, groups: Sequence[Group], model_type: str) -> list[Line]:
    lines = []
    for place, group in enumerate(groups):
        curves = [curve_points(entry.strategy, kind.metric, model_type) for entry in group.counted]
        if curves := [curve for curve in curves if curve]:
            means, band = mean_and_band(curves)
            lines.append(Line(group.label, means, place, band=band))
    return lines


def _bytes_line(group: Group, model_type: str, place: int) -> Iterator[Line]:
    """Yield the mean of runs that were evaluated equally often."""
    found = [loss_by_bytes(entry.strategy, model_type) for entry in group.counted]
    curves = [curve for curve in found if curve]
    if curves and len({len(curve) for curve in curves}) == 1:
        columns = zip(*curves, strict=True)
        yield Line(group.label, [(fmean(x for x, _ in col), fmean(y for _, y in col)) for col in columns], place)


def _curves(kind: CurveKind, panels: Mapping[str, Sequence[Line]]) -> Plot:
    bands = {
        (name, line.label): {x: (low, high) for x, low, high in line.band}
        for name, lines in panels.items()
        for line in lines
    }
    rows = [
        (line.label, name, x, mean, *bands[name, line.label].get(x, (None, None)))
        for name, lines in panels.items()
        for line in lines
        for x, mean in line.points
    ]
    return Plot(
        kind.name,
        kind.title,
        f"{kind.text.partition(';')[0].rstrip('.')}. {_BAND}",
        "; ".join(
            f"{name}, {line.label}: {line.points[-1][1]:.3f}"
            for name, lines in panels.items()
            for line in lines
            if line.points
        ),
        partial(draw_panels, panels=panels, x_label="round", y_label=kind.unit),
        panels_height(len(panels)),
        ("group", "model_type", "round", "mean", "mean_minus_std", "mean_plus_std"),
        rows,
        tuple(panels_note(len(panels))),
    )


def _final_plot(comparison: Comparison, types: Sequence[str]) -> Iterator[Plot]:
    lines = [
        (name, place, group.label, values)
        for name in types
        for place, group in enumerate(comparison.groups)
        if (values := [loss for entry in group.counted if (loss := entry.measure("loss", name)) is not None])
    ]
    if not lines:
        return
    shown = lines[:_MOST_LINES]
    yield Plot(
        "final-loss",
        "Held-out loss after the last round",
        "A dot is a run; the bar is the mean with one standard deviation over seeds to each side.",
        "; ".join(f"{name}, {label}: {fmean(values):.3f}" for name, _, label, values in shown),
        partial(_draw_final, lines=shown),
        0.9 + 0.3 * len(shown),
        ("model_type", "group", "loss"),
        [(name, label, value) for name, _, label, values in lines for value in values],
        (f"The first {_MOST_LINES} of {len(lines)} lines are drawn.",) if len(lines) > len(shown) else (),
    )


def _draw_final(figure: Figure, lines: Sequence[tuple[str, int, str, list[float]]]) -> None:
    axes = figure.subplots()
    for line, (_, place, _, values) in enumerate(lines):
        color, mean = series_color(place), fmean(values)
        spread = stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(mean, line, xerr=spread, color=color, marker="|", markersize=13, markeredgewidth=2, capsize=3)
        axes.plot(values, [line] * len(values), linestyle="", marker="o", markersize=4.5, color=color, alpha=0.55)
    axes.set_yticks(range(len(lines)), [f"{name}  ·  {label}" for name, _, label, _ in lines], fontsize=8)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="loss, nats/token")
