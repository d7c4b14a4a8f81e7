"""Spans as a Chrome trace, which chrome://tracing and ui.perfetto.dev open: one process a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def chrome_trace(spans_of_ranks: Sequence[Sequence[Mapping[str, Any]]], *, round_number: int) -> dict[str, Any]:
    """Return a trace in the "JSON object" form of the Trace Event Format.

    Args:
        spans_of_ranks: For each MPI rank what `Spans.drain` gave.
        round_number: Shown in the viewer's metadata.
    """
    starts = [span["start_us"] for spans in spans_of_ranks for span in spans]
    origin_us = min(starts, default=0)
    events: list[dict[str, Any]] = []
    for mpi_rank, spans in enumerate(spans_of_ranks):
        name = {"name": f"MPI rank {mpi_rank}"}
        events.append({"ph": "M", "name": "process_name", "pid": mpi_rank, "tid": 0, "args": name})
        events += [_complete(span, mpi_rank, origin_us) for span in spans]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"round": round_number}}


def _complete(span: Mapping[str, Any], mpi_rank: int, origin_us: int) -> dict[str, Any]:
    """Return a "complete" event; times are microseconds since the first span of any rank."""
    return {
        "ph": "X",
        "name": span["name"],
        "cat": span["category"],
        "ts": span["start_us"] - origin_us,
        "dur": span["duration_us"],
        "pid": mpi_rank,
        "tid": 0,
        "args": span["facts"],
    }
