"""Learning curves: a metric over rounds, a panel for each model type, a line for each strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from heterotune.report.plots.panels import Line, draw_panels, panels_height, panels_note
from heterotune.report.plots.plot import Cell, Plot
from heterotune.report.quantities import format_number
from heterotune.report.run_record import StrategyRecord

ALL_TYPES = "all model types"
_MOST_TOLD = 12


@dataclass(frozen=True)
class CurveKind:
    """A plot of learning curves.

    Attributes:
        name: Of the plot.
        title: Above it.
        metric: What is drawn as a line.
        companion: What is drawn thin beside it, "" = nothing.
        companion_name: What that is called.
        text: What is to be seen.
        unit: Beside the axis.
    """

    name: str
    title: str
    metric: str
    companion: str
    companion_name: str
    text: str
    unit: str


KINDS = (
    CurveKind(
        *("learning-curves", "Loss on held-out rows", "loss/eval", "", ""),
        *("Mean over each model type's held-out rows, after every round that was evaluated.", "loss, nats/token"),
    ),
    CurveKind(
        *("accuracy", "Accuracy", "accuracy/eval", "accuracy/personal", "personalised"),
        *("Share of held-out rows that were answered rightly; dotted: by clients' own models.", "accuracy"),
    ),
    CurveKind(
        *("exact-match", "Exact match", "exact_match/eval", "", ""),
        *("Share of generated answers that are the right one, letter for letter.", "share"),
    ),
    CurveKind(
        *("training-loss", "Loss on training rows", "loss/train", "", ""),
        *("Mean over the round's cohort while it trained. Cohorts differ, so it jumps.", "loss, nats/token"),
    ),
    CurveKind(
        *("personalised-loss", "Loss of personalised models", "loss/personal", "loss/eval", "common model"),
        *("Each client's own model on its own held-out rows; dotted: the common model.", "loss, nats/token"),
    ),
    CurveKind(
        *("worst-client", "The client that is served worst", "loss/worst_client", "loss/eval", "mean"),
        *("The highest loss of a client; dotted: the mean.", "loss, nats/token"),
    ),
    CurveKind(
        *("client-spread", "Spread between clients", "loss/client_spread", "", ""),
        *("Standard deviation of the clients' losses.", "loss, nats/token"),
    ),
)


def learning_plots(strategies: Sequence[StrategyRecord], model_types: Sequence[str]) -> Iterator[Plot]:
    """Yield a plot for each kind of curve that the run has."""
    for kind in KINDS:
        panels = {name: _lines(kind, strategies, name) for name in (ALL_TYPES, *model_types)}
        panels = {name: lines for name, lines in panels.items() if any(not line.faint for line in lines)}
        if panels:
            yield _plot(kind, panels, strategies)


def curve_points(
    strategy: StrategyRecord, metric: str, model_type: str, *, whole: bool = False
) -> list[tuple[float, float]]:
    """Return (round, value) of a model type, or of all of them together; `whole` = of every round, as it is."""
    curve = strategy.metrics.one(metric, whole=whole)
    if model_type != ALL_TYPES:
        curve = strategy.metrics.by(metric, "model_type", whole=whole).get(model_type)
    return curve.points() if curve is not None else []


def _lines(kind: CurveKind, strategies: Sequence[StrategyRecord], model_type: str) -> list[Line]:
    lines = []
    for place, strategy in enumerate(strategies):
        if points := curve_points(strategy, kind.metric, model_type):
            lines.append(Line(strategy.name, points, place))
        if kind.companion and lines and (points := curve_points(strategy, kind.companion, model_type)):
            lines.append(Line(f"{strategy.name}, {kind.companion_name}", points, place, faint=True))
    return lines


def _plot(kind: CurveKind, panels: dict[str, list[Line]], strategies: Sequence[StrategyRecord]) -> Plot:
    rows: list[Sequence[Cell]] = []
    for strategy in strategies:
        for metric in filter(None, (kind.metric, kind.companion)):
            for name in panels:
                rows += [(strategy.name, name, metric, *point) for point in curve_points(strategy, metric, name)]
    return Plot(
        kind.name,
        kind.title,
        kind.text,
        _told_ends(panels),
        partial(draw_panels, panels=panels, x_label="round", y_label=kind.unit),
        panels_height(len(panels)),
        ("strategy", "model_type", "metric", "round", "value"),
        rows,
        (*panels_note(len(panels)), *_thinned(kind.metric, strategies)),
    )


def _told_ends(panels: dict[str, list[Line]]) -> str:
    """Say where the lines begin and end."""
    ends = [
        f"{name}, {line.label}: {format_number(line.points[0][1])} to {format_number(line.points[-1][1])}"
        for name, lines in panels.items()
        for line in lines
        if not line.faint
    ]
    return "; ".join(ends[:_MOST_TOLD]) + ("; ..." if len(ends) > _MOST_TOLD else ".")


def _thinned(metric: str, strategies: Sequence[StrategyRecord]) -> Iterator[str]:
    curves = [curve for each in strategies for curve in each.metrics.curves.get(metric, {}).values()]
    widest = max((curve.rounds_per_point for curve in curves), default=1)
    if widest > 1:
        yield f"The run is long: a point is the mean of up to {widest} rounds. The first and the last are exact."
