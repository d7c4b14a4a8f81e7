"""Conflicts between model types: the cosines of their updates before and after CMGA, over rounds and tensor groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from heterotune.report.plots.colors import MUTED
from heterotune.report.plots.cosines import (
    AFTER,
    BEFORE,
    Cosines,
    Pair,
    in_fleet_order,
    mean_of_pairs,
    mean_over_groups,
    read_cosines,
    slider_frames,
)
from heterotune.report.plots.heat_map import HeatMap, draw_heat_map
from heterotune.report.plots.panels import Line, draw_single
from heterotune.report.plots.plot import Plot
from heterotune.report.run_record import StrategyRecord
from heterotune.report.thinned_series import ThinnedSeries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_GROUPS, _MOST_PAIRS, _MOST_LINES = 40, 28, 8
_NO_AFTER = "This run did not record the cosines after CMGA."


def conflict_plots(strategies: Sequence[StrategyRecord], model_types: Sequence[str]) -> Iterator[Plot]:
    """Yield the plots of every strategy that aligned updates of several model types."""
    for strategy in strategies:
        cosines = read_cosines(strategy, model_types)
        if cosines is not None:
            yield _matrix(cosines)
            yield _by_group(cosines)
            yield _over_rounds(cosines)
        if alignment := dict(strategy.metrics.keyed("alignment/gradient_cosine", "pair")):
            yield _alignment(strategy.name, alignment, model_types)


def _matrix(cosines: Cosines) -> Plot:
    means = {stage: mean_of_pairs(curves) for stage, curves in cosines.stages.items()}
    frames = slider_frames(cosines)
    told = "; ".join(
        f"{stage}: mean {fmean(found.values()):+.3f}, least {min(found.values()):+.3f}"
        for stage, found in means.items()
    )
    rows = [
        (stage, group, *pair, curve.num_values, curve.mean, curve.last and curve.last[1], curve.least, curve.greatest)
        for stage, curves in cosines.stages.items()
        for (group, pair), curve in curves.items()
    ]
    return Plot(
        f"conflicts-{cosines.strategy}",
        f"{cosines.strategy}: agreement between model types",
        "Cosine between the mean updates of every two model types; below 0 they conflict. Mean over rounds and tensor "
        f"groups. Full colour is a cosine of {frames['scale']:.2f}.",
        f"{told}.",
        partial(_draw_matrices, model_types=cosines.model_types, means=means, scale=frames["scale"]),
        1.1 + 0.42 * min(len(cosines.model_types), 10),
        ("stage", "group", "model_type", "other_model_type", "rounds", "mean", "last", "least", "greatest"),
        rows,
        () if AFTER in cosines.stages else (_NO_AFTER,),
        frames=frames,
    )


def _draw_matrices(
    figure: Figure, model_types: Sequence[str], means: Mapping[str, Mapping[Pair, float]], scale: float
) -> None:
    grid = figure.subplots(1, len(means), squeeze=False)
    for place, (axes, (stage, of_pair)) in enumerate(zip(grid.flat, means.items(), strict=True)):
        values = [[of_pair.get((a, b), of_pair.get((b, a))) for b in model_types] for a in model_types]
        names = model_types if place == 0 else [""] * len(model_types)
        ids = {BEFORE: "before", AFTER: "after"}.get(stage, "")
        heat_map = HeatMap(values, names, model_types, scale, _told, ids)
        draw_heat_map(axes, heat_map, is_signed=True, title=stage)
        axes.set_aspect("equal")


def _told(cosine: float) -> str:
    return f"{cosine:+.2f}"


def _by_group(cosines: Cosines) -> Plot:
    groups, pairs = cosines.groups[:_MOST_GROUPS], cosines.pairs[:_MOST_PAIRS]
    grids = {
        stage: [[_mean(curves.get((group, pair))) for pair in pairs] for group in groups]
        for stage, curves in cosines.stages.items()
    }
    names = [f"{a} : {b}" for a, b in pairs]
    is_cut = len(groups) < len(cosines.groups) or len(pairs) < len(cosines.pairs)
    return Plot(
        f"conflicts-by-group-{cosines.strategy}",
        f"{cosines.strategy}: agreement by tensor group",
        "Cosine, mean over rounds, by tensor group (its layer) and pair. An empty cell: the two share nothing there.",
        f"Pairs below 0: {'; '.join(_conflicts(groups, next(iter(grids.values()))))}.",
        partial(_draw_groups, grids=grids, groups=groups, names=names),
        1.9 + 0.3 * len(groups),
        ("stage", "group", *names),
        [(stage, group, *row) for stage, grid in grids.items() for group, row in zip(groups, grid, strict=True)],
        (f"The first {_MOST_GROUPS} groups and {_MOST_PAIRS} pairs are drawn.",) if is_cut else (),
    )


def _conflicts(groups: Sequence[str], grid: Sequence[Sequence[float | None]]) -> Iterator[str]:
    for group, row in zip(groups, grid, strict=True):
        cosines = [value for value in row if value is not None]
        yield f"{group} {sum(value < 0 for value in cosines)} of {len(cosines)}"


def _mean(curve: ThinnedSeries | None) -> float | None:
    return curve.mean if curve is not None else None


def _draw_groups(
    figure: Figure, grids: Mapping[str, list[list[float | None]]], groups: Sequence[str], names: Sequence[str]
) -> None:
    cells = [abs(cell) for grid in grids.values() for row in grid for cell in row if cell is not None]
    grid = figure.subplots(1, len(grids), squeeze=False)
    for place, (axes, (stage, values)) in enumerate(zip(grid.flat, grids.items(), strict=True)):
        heat_map = HeatMap(values, groups if place == 0 else [""] * len(groups), names, max(cells), _told)
        draw_heat_map(axes, heat_map, is_signed=True, title=stage)


def _over_rounds(cosines: Cosines) -> Plot:
    pairs = cosines.pairs[:_MOST_LINES]
    lines = [
        Line(" : ".join(pair) + (", after" if stage == AFTER else ""), points, place, faint=stage == AFTER)
        for stage, curves in cosines.stages.items()
        for place, pair in enumerate(pairs)
        if (points := mean_over_groups([curve for (_, mine), curve in curves.items() if mine == pair]))
    ]
    is_cut = len(pairs) < len(cosines.pairs)
    return Plot(
        f"conflicts-over-rounds-{cosines.strategy}",
        f"{cosines.strategy}: agreement over rounds",
        "Cosine of each pair, mean over tensor groups; lines before CMGA, thin dots after it.",
        "; ".join(f"{line.label}: {line.points[0][1]:+.3f} to {line.points[-1][1]:+.3f}" for line in lines),
        partial(_draw_rounds, lines=lines),
        3.2 + 0.05 * len(lines),
        ("pair", "round", "cosine"),
        [(line.label, *point) for line in lines for point in line.points],
        (f"The first {_MOST_LINES} of {len(cosines.pairs)} pairs are drawn.",) if is_cut else (),
    )


def _draw_rounds(figure: Figure, lines: Sequence[Line]) -> None:
    axes = draw_single(figure, lines, "round", "cosine")
    axes.axhline(0.0, color=MUTED, linewidth=1)


def _alignment(strategy: str, found: Mapping[tuple[str, ...], ThinnedSeries], model_types: Sequence[str]) -> Plot:
    of_pair = {
        in_fleet_order(pair, model_types): curve.last[1] for (pair,), curve in found.items() if curve.last is not None
    }
    names = [name for name in model_types if any(name in pair for pair in of_pair)]
    return Plot(
        f"alignment-{strategy}",
        f"{strategy}: alignment before round 1",
        "Cosine between the model types' public loss gradients of the shared head core. Near 0, sharing is noise.",
        "; ".join(f"{a} : {b} {value:+.2f}" for (a, b), value in of_pair.items()),
        partial(_draw_matrices, model_types=names, means={"public gradients": of_pair}, scale=1.0),
        1.1 + 0.42 * min(len(names), 10),
        ("model_type", "other_model_type", "cosine"),
        [(*pair, value) for pair, value in of_pair.items()],
    )
