"""`heterotune profile`: what the command does, and what it says on the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from heterotune.errors import LaunchError
from heterotune.profiling.chrome_trace import chrome_trace
from heterotune.profiling.kinds import DEVICE_ALLOCATED, HOST_RESIDENT
from heterotune.profiling.run_profile import RunProfile, read_profiles, read_spans
from heterotune.report.memory_plot import plot_peaks
from heterotune.report.memory_profile import profile_report, write_csv
from heterotune.run_folder import RunFolder

TABLE_FILE, PLOT_FILE, DEVICE_PLOT_FILE, TRACE_FILE = "profile.csv", "profile.png", "profile-gpu.png", "trace.json"


def profile_run(run_dir: Path, console: Console, *, trace: bool, as_json: bool = False) -> None:
    """Show a run's memory and write it as table and plot beside the run's files, comparisons too.

    Args:
        run_dir: The run folder; its run may have crashed or still be at work.
        console: Where to show it.
        trace: Write a Chrome trace of the newest round, too.
        as_json: Print the peaks as JSON instead, and write neither table nor plot.

    Raises:
        LaunchError: If it is no run folder, nothing can be written there, or there is nothing to trace.
    """
    profiles = read_profiles(run_dir)
    if as_json:
        print(json.dumps({profile.name or "run": _as_json(profile) for profile in profiles}, indent=1))
        return
    for profile in profiles:
        for part in profile_report(profile):
            console.print(part)
    try:
        written = [path for profile in profiles for path in _write(profile)]
        written += [_write_trace(profile.folder) for profile in profiles if trace and profile.peaks]
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise LaunchError(f"{where}{error.strerror}. Make {run_dir} writable, or profile a copy of it.") from error
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if trace and not any(profile.peaks for profile in profiles):
        read_spans(profiles[0].folder)


def _as_json(profile: RunProfile) -> dict[str, object]:
    """Return one strategy's peaks with their components, its leaks, and what is not there."""
    peaks = [{**asdict(peak), "unexplained_bytes": peak.unexplained_bytes} for peak in profile.peaks]
    return {"peaks": peaks, "leaks": [leak.as_record() for leak in profile.leaks], "missing": list(profile.missing)}


def _write(profile: RunProfile) -> list[Path]:
    """Write table and plots of one strategy; nothing where nothing was measured."""
    if not profile.peaks:
        return []
    folder, written = RunFolder.open(profile.folder), [profile.folder / TABLE_FILE]
    with folder.writing(TABLE_FILE) as path, path.open("w", encoding="utf-8", newline="") as file:
        write_csv(profile, file)
    for name, kind in {PLOT_FILE: HOST_RESIDENT, DEVICE_PLOT_FILE: DEVICE_ALLOCATED}.items():
        if peaks := profile.of_kind(kind):
            with folder.writing(name) as path:
                plot_peaks(peaks, f"{profile.name or profile.folder.name}: {kind} peaks", path)
            written.append(profile.folder / name)
    return written


def _write_trace(folder: Path) -> Path:
    spans = read_spans(folder)
    with RunFolder.open(folder).writing(TRACE_FILE) as path:
        path.write_text(json.dumps(chrome_trace(spans["ranks"], round_number=spans["round"])), encoding="utf-8")
    return folder / TRACE_FILE
