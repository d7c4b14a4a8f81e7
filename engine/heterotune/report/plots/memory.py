"""Peaks of memory: by phase and component, by MPI rank and phase, and between strategies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from heterotune.profiling.components import COMPONENTS, UNEXPLAINED
from heterotune.profiling.kinds import DEVICE_ALLOCATED, HOST_RESIDENT
from heterotune.profiling.run_profile import PhasePeak
from heterotune.report.memory_plot import draw_peaks, peaks_height
from heterotune.report.memory_profile import shown_peaks
from heterotune.report.plots.heat_map import HeatMap, draw_heat_map
from heterotune.report.plots.plot import Plot
from heterotune.report.quantities import format_bytes
from heterotune.report.run_record import StrategyRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {HOST_RESIDENT: "resident memory", DEVICE_ALLOCATED: "GPU memory"}
_NAMES = {HOST_RESIDENT: "memory", DEVICE_ALLOCATED: "gpu-memory"}
_MOST_ROWS = 64
_MIB = 2**20


def memory_plots(strategies: Sequence[StrategyRecord]) -> Iterator[Plot]:
    """Yield the peaks of the run's strategy, and those of its comparisons beside them; of GPUs where there are any."""
    for kind in _TITLES:
        peaks = {each.name: found for each in strategies if each.profile and (found := each.profile.of_kind(kind))}
        main = peaks.get(strategies[0].name)
        if main:
            yield _components(strategies[0].name, kind, main)
            yield _by_rank(strategies[0].name, kind, main)
        if len(peaks) > 1:
            yield _by_strategy(kind, peaks)


def _components(strategy: str, kind: str, peaks: Sequence[PhasePeak]) -> Plot:
    highest = max(peaks, key=lambda peak: peak.peak_bytes)
    is_cut = len(shown_peaks(peaks)) < len(peaks)
    return Plot(
        f"{_NAMES[kind]}-components",
        f"What {_TITLES[kind]} consists of",
        f"{strategy}: the highest peak of each phase over all rounds, by component. A tick is the plan's estimate.",
        f"The highest of all is {format_bytes(highest.peak_bytes)} in phase {highest.phase} on MPI rank "
        f"{highest.mpi_rank}, round {highest.round_number}.",
        partial(draw_peaks, peaks=peaks),
        peaks_height(peaks),
        ("phase", "mpi_rank", "round", "peak_bytes", "estimate_bytes", *(f"{n}_bytes" for n in _PARTS)),
        [
            (
                *(peak.phase, peak.mpi_rank, peak.round_number, peak.peak_bytes, peak.estimate_bytes),
                *(peak.components.get(name) for name in COMPONENTS),
                peak.unexplained_bytes,
            )
            for peak in peaks
        ],
        ("Of many ranks, only the highest and the lowest of each phase are drawn; the CSV has all.",) if is_cut else (),
    )


_PARTS = (*COMPONENTS, UNEXPLAINED)


def _by_rank(strategy: str, kind: str, peaks: Sequence[PhasePeak]) -> Plot:
    phases = list(dict.fromkeys(peak.phase for peak in peaks))
    ranks = sorted({peak.mpi_rank for peak in peaks})
    num_shown = min(len(ranks), _MOST_ROWS)
    shown = [ranks[place * len(ranks) // num_shown] for place in range(num_shown)]
    found = {(peak.mpi_rank, peak.phase): peak.peak_bytes for peak in peaks}
    grid = [[found.get((mpi_rank, phase)) for phase in phases] for mpi_rank in shown]
    spread = ", ".join(f"{phase} {_spread(phase, peaks)}" for phase in phases)
    return Plot(
        f"{_NAMES[kind]}-ranks",
        f"Peak of {_TITLES[kind]} by MPI rank and phase",
        f"{strategy}: MiB, highest over all rounds. An empty cell: this rank did nothing there.",
        f"From the lowest to the highest rank: {spread}.",
        partial(_draw_grid, grid=grid, names=[f"rank {mpi_rank}" for mpi_rank in shown], phases=phases),
        0.9 + (0.3 if num_shown <= 16 else 0.17) * num_shown,
        ("mpi_rank", *(f"{phase}_peak_bytes" for phase in phases)),
        [(mpi_rank, *(found.get((mpi_rank, phase)) for phase in phases)) for mpi_rank in ranks],
        (f"{_MOST_ROWS} of {len(ranks)} ranks are drawn; the CSV has all.",) if len(ranks) > _MOST_ROWS else (),
    )


def _by_strategy(kind: str, peaks: dict[str, list[PhasePeak]]) -> Plot:
    phases = list(dict.fromkeys(peak.phase for found in peaks.values() for peak in found))
    grid = [
        [max((each.peak_bytes for each in found if each.phase == phase), default=None) for phase in phases]
        for found in peaks.values()
    ]
    highest = (f"{name} {format_bytes(max(each.peak_bytes for each in found))}" for name, found in peaks.items())
    return Plot(
        f"{_NAMES[kind]}-strategies",
        f"Peak of {_TITLES[kind]} by strategy and phase",
        "MiB, highest MPI rank over all rounds. Strategies run one after another in the same processes, so a later one "
        "begins with what the allocator kept of the earlier ones.",
        f"Highest of all phases: {', '.join(highest)}.",
        partial(_draw_grid, grid=grid, names=list(peaks), phases=phases),
        0.9 + 0.32 * len(peaks),
        ("strategy", *(f"{phase}_peak_bytes" for phase in phases)),
        [(name, *row) for name, row in zip(peaks, grid, strict=True)],
    )


def _spread(phase: str, peaks: Sequence[PhasePeak]) -> str:
    mine = [peak.peak_bytes for peak in peaks if peak.phase == phase]
    low, high = format_bytes(min(mine)), format_bytes(max(mine))
    return low if low == high else f"{low} to {high}"


def _draw_grid(figure: Figure, grid: Sequence[Sequence[int | None]], names: list[str], phases: list[str]) -> None:
    values = [[None if cell is None else cell / _MIB for cell in row] for row in grid]
    highest = max(cell for row in values for cell in row if cell is not None)
    heat_map = HeatMap(values, names, phases, highest, lambda value: f"{value:.0f}")
    draw_heat_map(figure.subplots(), heat_map, is_signed=False)
