"""Spans in time order of their end, and the trace that viewers open."""

from __future__ import annotations

import json

import pytest

from heterotune.profiling.chrome_trace import chrome_trace
from heterotune.profiling.spans import Spans


def test_spans_have_start_and_duration_also_when_a_phase_raises() -> None:
    ticks = iter([1_000_000, 5_000_000, 7_000_000, 9_000_000])
    spans = Spans(lambda: next(ticks))
    with spans.span("train", {"clients": [1, 2]}):
        pass
    with pytest.raises(KeyError), spans.span("gather"):
        raise KeyError
    expected = [("train", 1000, 4000, {"clients": [1, 2]}), ("gather", 7000, 2000, {})]
    found = [(span["name"], span["start_us"], span["duration_us"], span["facts"]) for span in spans.drain()]
    assert found == expected and spans.drain() == []


def test_a_collective_operation_ends_when_it_is_told() -> None:
    spans = Spans(lambda: 5_000_000_000)
    spans.waited("broadcast", 2.0)
    (span,) = spans.drain()
    assert (span["start_us"], span["duration_us"], span["category"]) == (3_000_000, 2_000_000, "collective")


def test_the_trace_is_in_the_trace_event_format() -> None:
    span = {"name": "train", "category": "phase", "start_us": 500, "duration_us": 20, "facts": {"clients": [1]}}
    trace = json.loads(json.dumps(chrome_trace([[span], [span | {"start_us": 400}]], round_number=3)))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for event in complete:
        assert {key: type(event[key]) for key in ("name", "cat", "ts", "dur", "pid", "tid", "args")} == {
            "name": str,
            "cat": str,
            "ts": int,
            "dur": int,
            "pid": int,
            "tid": int,
            "args": dict,
        }
    assert [(event["pid"], event["ts"]) for event in complete] == [(0, 100), (1, 0)]
    names = {event["pid"]: event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert names == {0: "MPI rank 0", 1: "MPI rank 1"}
