"""Where the time went: phases of every round, ranks that waited, and who did what in the newest round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from heterotune.profiling.spans import PHASE
from heterotune.report.plots.colors import SERIES
from heterotune.report.plots.panels import MOST_PANELS, Line, draw_panels, panels_height
from heterotune.report.plots.plot import Plot
from heterotune.report.quantities import format_seconds
from heterotune.report.run_record import RunRecord, StrategyRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER, IDLE = "other", "idle"
_PREFIX = "seconds/"
_NOT_IN_ROUNDS = ("round", "load", "align", "build", IDLE)
_MOST_BARS, _MOST_RANKS, _MOST_LINES = 60, 12, 8
_SPAN_STEPS = 400  # spans that are closer than this part of a round are drawn as one
_PHASES = ("train", "evaluate", "encode", "gather", "aggregate", "broadcast", "checkpoint", "progress")
_COLORS = {**dict(zip(_PHASES, SERIES, strict=True)), IDLE: "#9aa5b1", OTHER: "#b9c0c8"}

Points = Sequence[tuple[float, float]]
Phases = Mapping[str, Points]
"""Phase -> (round, seconds)."""
Span = tuple[str, float, float]
"""Phase, start and duration in seconds."""


def timing_plots(run: RunRecord) -> Iterator[Plot]:
    """Yield phases and idle shares of all strategies, and the newest round's timeline."""
    phases = {each.name: found for each in run.strategies[:MOST_PANELS] if (found := _phases(each))}
    if phases:
        yield _phase_plot(phases)
    idle = {each.name: found for each in run.strategies[:MOST_PANELS] if (found := _idle(each))}
    if idle:
        yield _idle_plot(idle)
    if any(run.spans):
        yield _timeline_plot(run)


def _phases(strategy: StrategyRecord) -> dict[str, Points]:
    """Return the phases at the root, the longest first, and "other", the rest of each round."""
    whole = strategy.metrics.one(f"{_PREFIX}round")
    if whole is None or not whole.num_values:
        return {}
    rest, phases = dict(whole.points()), {}
    for name in strategy.metrics.curves:
        curve, phase = strategy.metrics.one(name), name.removeprefix(_PREFIX)
        if not name.startswith(_PREFIX) or phase in _NOT_IN_ROUNDS or curve is None:
            continue
        phases[phase] = [(x, value) for x, value in curve.points() if x in rest]
        for x, value in phases[phase]:
            rest[x] -= value
    phases[OTHER] = [(x, max(0.0, value)) for x, value in rest.items()]
    return dict(sorted(phases.items(), key=lambda item: -sum(value for _, value in item[1])))


def _phase_plot(phases: Mapping[str, Phases]) -> Plot:
    told = "; ".join(f"{strategy}: {_shares(found)}" for strategy, found in phases.items())
    longest = max(len(points) for found in phases.values() for points in found.values())
    return Plot(
        "phases",
        "Seconds of each round by phase",
        "At MPI rank 0. Training contains the waiting in lock step.",
        f"Share of all rounds: {told}.",
        partial(_draw_phase_panels, phases=phases),
        panels_height(len(phases)) + 0.4,
        ("strategy", "phase", "round", "seconds"),
        [
            (name, phase, *point)
            for name, found in phases.items()
            for phase, points in found.items()
            for point in points
        ],
        (f"There are {longest} rounds or means of rounds: a bar is the mean of neighbours.",)
        if longest > _MOST_BARS
        else (),
    )


def _shares(phases: Phases) -> str:
    seconds = {phase: sum(value for _, value in points) for phase, points in phases.items()}
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{phase} {100 * value / total:.0f} %" for phase, value in list(seconds.items())[:4])


def _draw_phase_panels(figure: Figure, phases: Mapping[str, Phases]) -> None:
    num_columns = min(2, len(phases))
    grid = figure.subplots(-(-len(phases) // num_columns), num_columns, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for axes, (strategy, found) in zip(grid.flat, phases.items(), strict=False):
        axes.set(title=strategy, xlabel="round")
        axes.grid(visible=False, axis="x")
        handles |= _draw_phases(axes, found)
    for axes in list(grid.flat)[len(phases) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylabel("seconds")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)


def _draw_phases(axes: Axes, phases: Phases) -> dict[str, Any]:
    """Draw a bar for each round, or for neighbours together; returns phase -> what stands for it in a legend."""
    rounds = sorted({x for points in phases.values() for x, _ in points})
    num_bars = min(len(rounds), _MOST_BARS)
    bar_of = {x: place * num_bars // len(rounds) for place, x in enumerate(rounds)}
    members: list[list[float]] = [[] for _ in range(num_bars)]
    for x, bar in bar_of.items():
        members[bar].append(x)
    where = [fmean(each) for each in members]
    width = 0.85 * (where[-1] - where[0]) / (num_bars - 1) if num_bars > 1 else 0.6
    handles, bottom = {}, [0.0] * num_bars
    for place, (phase, points) in enumerate(phases.items()):
        heights = [0.0] * num_bars
        for x, value in points:
            heights[bar_of[x]] += value / len(members[bar_of[x]])
        if max(heights) > 0:
            handles[phase] = axes.bar(where, heights, width, bottom, color=_color(phase, place))
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    return handles


def _color(phase: str, place: int) -> str:
    return _COLORS.get(phase, SERIES[place % len(SERIES)])


def _idle(strategy: StrategyRecord) -> dict[str, Points]:
    """Return MPI rank -> (round, percent)."""
    curves = strategy.metrics.by("rank/idle_share", "mpi_rank")
    return {rank: [(x, 100.0 * share) for x, share in curve.points()] for rank, curve in curves.items()}


def _idle_plot(idle: Mapping[str, Mapping[str, Points]]) -> Plot:
    means = {
        name: [fmean(value for _, value in points) for points in by_rank.values() if points]
        for name, by_rank in idle.items()
    }
    told = "; ".join(
        f"{name}: mean {fmean(found):.1f} %, most idle rank {max(found):.1f} %"
        for name, found in means.items()
        if found
    )
    num_ranks = max(map(len, idle.values()))
    return Plot(
        "idle-share",
        "Idle share of the MPI ranks",
        "Part of a round in which a rank waited: in collective calls, or in passes made only to stay in lock step.",
        f"{told}.",
        partial(draw_panels, panels={name: _idle_lines(found) for name, found in idle.items()}, **_IDLE_LABELS),
        panels_height(len(idle)) + (0.7 if len(idle) == 1 else 0.0),
        ("strategy", "mpi_rank", "round", "idle_percent"),
        [(name, rank, *point) for name, found in idle.items() for rank, points in found.items() for point in points],
        (f"Of {num_ranks} ranks the mean is drawn, with a band from the least to the most idle.",)
        if num_ranks > _MOST_LINES
        else (),
    )


_IDLE_LABELS = {"x_label": "round", "y_label": "idle, percent"}


def _idle_lines(by_rank: Mapping[str, Points]) -> list[Line]:
    if len(by_rank) <= _MOST_LINES:
        return [Line(f"rank {rank}", points, place) for place, (rank, points) in enumerate(by_rank.items())]
    values: dict[float, list[float]] = defaultdict(list)
    for points in by_rank.values():
        for x, value in points:
            values[x].append(value)
    ordered = sorted(values.items())
    band = [(x, min(found), max(found)) for x, found in ordered]
    return [Line("mean of all ranks", [(x, fmean(found)) for x, found in ordered], 0, band=band)]


def _timeline_plot(run: RunRecord) -> Plot:
    shown = run.spans[:_MOST_RANKS]
    start_us = min(span["start_us"] for rank in shown for span in rank)
    by_rank = [_merged([span for span in rank if span["category"] == PHASE], start_us) for rank in shown]
    end = max((start + duration for rank in by_rank for _, start, duration in rank), default=0.0)
    notes = [f"The first {_MOST_RANKS} of {len(run.spans)} ranks are drawn."] if len(run.spans) > len(shown) else []
    return Plot(
        "timeline",
        f"Who did what in round {run.spans_round}",
        f"A line for each MPI rank of {run.strategies[0].name}; gaps are waiting, or work between phases. "
        "`heterotune profile --trace` shows it with every collective operation.",
        f"The round took {format_seconds(end)}.",
        partial(_draw_timeline, by_rank=by_rank),
        1.1 + 0.34 * len(shown),
        ("mpi_rank", "phase", "start_seconds", "seconds"),
        [(mpi_rank, *span) for mpi_rank, spans in enumerate(by_rank) for span in spans],
        notes,
    )


def _merged(spans: Sequence[Mapping[str, Any]], start_us: int) -> list[Span]:
    """Return a rank's phases in order; what could not be told apart in the picture becomes one."""
    ordered = sorted((span["start_us"] - start_us, span["duration_us"], span["name"]) for span in spans)
    step = max((start + duration for start, duration, _ in ordered), default=0) / _SPAN_STEPS
    newest: dict[str, list[Any]] = {}
    merged: list[list[Any]] = []
    for start, duration, name in ordered:
        before = newest.get(name)
        if before is not None and start - (before[1] + before[2]) < step:
            before[2] = max(before[2], start + duration - before[1])
        else:
            newest[name] = [name, start, duration]
            merged.append(newest[name])
    return [(name, start / 1e6, duration / 1e6) for name, start, duration in merged]


def _draw_timeline(figure: Figure, by_rank: Sequence[Sequence[Span]]) -> None:
    axes, handles = figure.subplots(), {}
    found = {name for spans in by_rank for name, _, _ in spans}
    phases = sorted(found, key=lambda name: (_PHASES.index(name) if name in _PHASES else len(_PHASES), name))
    for place, phase in enumerate(phases):
        for mpi_rank, spans in enumerate(by_rank):
            mine = [(start, duration) for name, start, duration in spans if name == phase]
            bars = axes.broken_barh(mine, (mpi_rank - 0.38, 0.76), color=_color(phase, place), linewidth=0)
            handles.setdefault(phase, bars)
    axes.set(ylim=(len(by_rank) - 0.5, -0.5), xlabel="seconds")
    axes.set_yticks(range(len(by_rank)), [f"rank {mpi_rank}" for mpi_rank in range(len(by_rank))])
    axes.grid(visible=False, axis="y")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)
