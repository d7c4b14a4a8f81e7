"""Tables of a run's memory: MPI rank x phase, measured beside estimated, and what it consists of."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import ConsoleRenderable
from rich.table import Table
from rich.text import Text

from heterotune.profiling.components import COMPONENTS, UNEXPLAINED
from heterotune.profiling.kinds import DEVICE_ALLOCATED, HOST_RESIDENT
from heterotune.profiling.run_profile import PhasePeak, RunProfile
from heterotune.report.quantities import format_bytes

ALL_RANKS = 8
"""With more MPI ranks only the highest and the lowest of each phase are shown; profile.csv has all."""
_HEADINGS = {"activations": "activ-\nations", "optimizer_state": "optim.\nstate", UNEXPLAINED: "unex-\nplained"}
_WITH_COMPONENTS = {HOST_RESIDENT: "resident", DEVICE_ALLOCATED: "GPU allocated"}


def profile_report(profile: RunProfile) -> Iterator[ConsoleRenderable]:
    """Yield a run's tables, what is missing in them, and leaks."""
    for kind, title in _WITH_COMPONENTS.items():
        if peaks := profile.of_kind(kind):
            yield _component_table(peaks, f"{profile.name or 'run'}: {title} peak by phase and MPI rank")
    others = [peak for peak in profile.peaks if peak.kind not in _WITH_COMPONENTS]
    if others:
        yield _plain_table(others, f"{profile.name or 'run'}: other memory, highest over phases")
    for sentence in profile.missing:
        yield Text(f"missing: {sentence}", style="yellow", overflow="fold")
    for leak in profile.leaks:
        yield Text(str(leak), style="bold red", overflow="fold")


def write_csv(profile: RunProfile, file: TextIO) -> None:
    """Write every peak with its components in bytes; an empty cell is not known."""
    table = csv.writer(file, lineterminator="\n")
    head = ("mpi_rank", "phase", "kind", "round", "peak_bytes", "estimate_bytes")
    table.writerow([*head, *(f"{component}_bytes" for component in (*COMPONENTS, UNEXPLAINED))])
    for peak in profile.peaks:
        parts = [peak.components.get(component, 0) if peak.components else None for component in COMPONENTS]
        measured = (peak.mpi_rank, peak.phase, peak.kind, peak.round_number, peak.peak_bytes, peak.estimate_bytes)
        table.writerow([*measured, *parts, peak.unexplained_bytes])


def shown_peaks(peaks: Sequence[PhasePeak]) -> list[PhasePeak]:
    """Return all peaks of a few MPI ranks; of many only the highest and the lowest of each phase."""
    if len({peak.mpi_rank for peak in peaks}) <= ALL_RANKS:
        return list(peaks)
    shown = []
    for phase in dict.fromkeys(peak.phase for peak in peaks):
        mine = sorted((peak for peak in peaks if peak.phase == phase), key=lambda peak: peak.peak_bytes)
        shown += [mine[-1], mine[0]] if len(mine) > 1 else mine
    return shown


def _component_table(peaks: Sequence[PhasePeak], title: str) -> Table:
    names = [name for name in COMPONENTS if any(name in peak.components for peak in peaks)]
    is_planned = any(peak.estimate_bytes is not None for peak in peaks)
    table = Table(title=f"{title}, in MiB", caption=_caption(peaks), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("phase", no_wrap=True)
    for name in ("MPI\nrank", "round", "peak", *(("estimate", "differ-\nence") if is_planned else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (*names, UNEXPLAINED):
        table.add_column(_HEADINGS.get(name, name.replace("_", "\n")), justify="right", no_wrap=True)
    for peak in shown_peaks(peaks):
        measured = [peak.phase, str(peak.mpi_rank), str(peak.round_number), _mib(peak.peak_bytes)]
        parts = [_mib(peak.components.get(name)) for name in names]
        table.add_row(*measured, *(_beside_estimate(peak) if is_planned else ()), *parts, _unexplained(peak))
    return table


def _caption(peaks: Sequence[PhasePeak]) -> str | None:
    is_cut = len(shown_peaks(peaks)) < len(peaks)
    return "only the highest and the lowest MPI rank of each phase; all are in profile.csv" if is_cut else None


def _beside_estimate(peak: PhasePeak) -> list[str]:
    if not peak.estimate_bytes:
        return ["-", "-"]
    difference = 100.0 * (peak.peak_bytes - peak.estimate_bytes) / peak.estimate_bytes
    return [_mib(peak.estimate_bytes), f"{difference:+.0f} %"]


def _mib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 2**20:.1f}"


def _unexplained(peak: PhasePeak) -> str:
    if peak.unexplained_bytes is None:
        return "-"
    return f"{100.0 * peak.unexplained_bytes / peak.peak_bytes:.1f} %"


def _plain_table(peaks: Sequence[PhasePeak], title: str) -> Table:
    highest: dict[tuple[int, str], PhasePeak] = {}
    for peak in sorted(peaks, key=lambda peak: peak.peak_bytes):
        highest[peak.mpi_rank, peak.kind] = peak
    table = Table(title=title)
    for name in ("MPI rank", "kind", "phase", "round", "peak"):
        table.add_column(name, justify="right" if name in ("round", "peak") else "left")
    for (mpi_rank, kind), peak in sorted(highest.items()):
        table.add_row(str(mpi_rank), kind, peak.phase, str(peak.round_number), format_bytes(peak.peak_bytes))
    return table
