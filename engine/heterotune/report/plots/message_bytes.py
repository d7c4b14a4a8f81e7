"""What clients send and get, against what they gain by it and against the full model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from heterotune.report.plots.colors import MUTED, series_color
from heterotune.report.plots.learning import curve_points
from heterotune.report.plots.panels import Line, draw_panels, panels_height, panels_note
from heterotune.report.plots.plot import Cell, Plot
from heterotune.report.quantities import format_bytes, format_share
from heterotune.report.run_record import StrategyRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = 2**20
_LOG_FROM = 10.0  # where strategies differ by more, a linear axis would hide the cheap one
_MOST_BARS = 40


def bytes_plots(strategies: Sequence[StrategyRecord], model_types: Sequence[str]) -> Iterator[Plot]:
    """Yield bytes against loss, and bytes of a client's round beside the full model."""
    panels = {name: _lines(strategies, name) for name in model_types}
    panels = {name: lines for name, lines in panels.items() if lines}
    if panels:
        yield _against_loss(panels)
    bars = [bar for name in model_types for bar in _bars(strategies, name)]
    if bars:
        yield _per_client(bars)


def loss_by_bytes(strategy: StrategyRecord, model_type: str) -> list[tuple[float, float]]:
    """Return (MiB that all clients of a type have sent and got so far, held-out loss)."""
    cumulative = strategy.ledger.cumulative(model_type)
    rounds = [round_number for round_number, _ in cumulative]
    points = []
    for round_number, loss in curve_points(strategy, "loss/eval", model_type):
        place = bisect_right(rounds, round_number)
        points.append((cumulative[place - 1][1] / _MIB if place else 0.0, loss))
    return points if cumulative else []


def _lines(strategies: Sequence[StrategyRecord], model_type: str) -> list[Line]:
    found = [
        Line(each.name, loss_by_bytes(each, model_type), place, faint=False) for place, each in enumerate(strategies)
    ]
    return [line for line in found if line.points]


def _against_loss(panels: Mapping[str, Sequence[Line]]) -> Plot:
    ends = [line.points[-1][0] for lines in panels.values() for line in lines if line.points[-1][0] > 0]
    is_log = bool(ends) and max(ends) > _LOG_FROM * min(ends)
    shown = {name: [_without_zero(line) for line in lines] if is_log else lines for name, lines in panels.items()}
    notes = ("The axis of bytes is logarithmic, so the loss before round 1 is left out.",) if is_log else ()
    told = "; ".join(
        f"{name}, {line.label}: {format_bytes(line.points[-1][0] * _MIB)} to reach {line.points[-1][1]:.3f}"
        for name, lines in list(panels.items())[:6]
        for line in lines
    )
    return Plot(
        "bytes-and-quality",
        "Bytes against quality",
        "Held-out loss against the bytes that all clients of a model type have sent and got so far.",
        f"{told}.",
        partial(draw_panels, panels=shown, x_label="MiB up and down so far", y_label="loss, nats/token", is_log=is_log),
        panels_height(len(panels)),
        ("strategy", "model_type", "mebibytes", "loss"),
        [(line.label, name, *point) for name, lines in panels.items() for line in lines for point in line.points],
        (*notes, *panels_note(len(panels))),
    )


def _without_zero(line: Line) -> Line:
    return Line(line.label, [point for point in line.points if point[0] > 0], line.place)


def _bars(strategies: Sequence[StrategyRecord], model_type: str) -> Iterator[tuple[Cell, ...]]:
    """Yield model type, strategy, place, up, down, full model in bytes."""
    for place, strategy in enumerate(strategies):
        up, down = (strategy.ledger.bytes_per_turn(model_type, way) for way in ("up", "down"))
        if up is not None or down is not None:
            yield model_type, strategy.name, place, up or 0.0, down or 0.0, strategy.full_model_bytes(model_type)


def _per_client(bars: Sequence[tuple[Cell, ...]]) -> Plot:
    told = "; ".join(
        f"{name}, {strategy}: up {format_bytes(up)}"
        + (f" ({format_share(up, full)} of the full model)" if full else "")
        for name, strategy, _, up, _, full in bars[:8]
    )
    notes = (f"Only the first {_MOST_BARS} of {len(bars)} bars are drawn.",) if len(bars) > _MOST_BARS else ()
    return Plot(
        "bytes-per-client",
        "Bytes of one client in one round",
        "Measured mean; the tick marks one message with the full model. The axis is logarithmic.",
        f"{told}.",
        partial(_draw_bars, bars=bars[:_MOST_BARS]),
        0.9 + 0.42 * min(len(bars), _MOST_BARS),
        ("model_type", "strategy", "up_bytes_per_client_round", "down_bytes_per_client_round", "full_model_bytes"),
        [(name, strategy, up, down, full) for name, strategy, _, up, down, full in bars],
        notes,
    )


def _draw_bars(figure: Figure, bars: Sequence[tuple[Cell, ...]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots()
    places = range(len(bars))[::-1]
    for shift, column, alpha, label in ((0.19, 3, 1.0, "up"), (-0.19, 4, 0.5, "down")):
        colors = [series_color(bar[2]) for bar in bars]
        widths = [bar[column] for bar in bars]
        axes.barh([place + shift for place in places], widths, height=0.36, color=colors, alpha=alpha, label=label)
    full = [(bar[5], place) for bar, place in zip(bars, places, strict=True) if bar[5]]
    if full:
        x, y = zip(*full, strict=True)
        axes.plot(x, y, linestyle="", marker="|", markersize=16, markeredgewidth=2.5, color=MUTED, label="full model")
    axes.set_yticks(list(places), [f"{name}\n{strategy}" for name, strategy, *_ in bars], fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
    axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes of one client in one round")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3)
