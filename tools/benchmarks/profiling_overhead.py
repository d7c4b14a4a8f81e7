"""What profiling costs a round of the demo: seconds inside its own code, beside the seconds of the round.

    python tools/benchmarks/profiling_overhead.py     # about 3 minutes; writes docs/results/profiling_overhead.csv

Five fresh jobs of two MPI ranks; the root's clock counts. What is counted: looking at the process when a phase begins
and ends, adding up components, spans, PSS, and writing all that. Once in a run each kind of work is tracked tensor by
tensor; what the wrapper of the operations costs is counted apart, with round 1, although some of it is before round 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import run_worker  # noqa: E402
from tables import write_table  # noqa: E402

from heterotune.journal import Journal  # noqa: E402
from heterotune.profiling.recorder import MemoryRecorder  # noqa: E402
from heterotune.profiling.spans import Spans  # noqa: E402
from heterotune.profiling.tensor_tracker import TensorTracker  # noqa: E402
from heterotune.run_folder import RunFolder  # noqa: E402

NUM_JOBS, NUM_RANKS, NUM_ROUNDS = 5, 2, 2
RUN_FILE = REPOSITORY / "launch" / "runs" / "demo.yaml"
SPENT: dict[str, float] = defaultdict(float)


def main() -> int:
    """Run the jobs and write the table, or be one of their ranks."""
    options = _parse()
    if options.answer is not None:
        return _rank(options.answer)
    rows = []
    for job in range(1, NUM_JOBS + 1):
        rows += [{"job": job} | row for row in run_worker(Path(__file__), [], num_ranks=NUM_RANKS)]
        print(json.dumps(rows[-NUM_ROUNDS:]), flush=True)
    once = median(row["tracking_seconds"] for row in rows if row["round"] == 1)
    notes = [f"median share of round 2: {_median_share(rows, 2):.2%}; tracking once in a run: {once:.2f} s"]
    print(*notes, sep="\n")
    write_table(options.out, rows, notes)
    return 0


def _rank(answer: Path) -> int:
    """Run the demo in this process with clocks in the profiler; the root writes one row a round."""
    from heterotune.worker import main as run_rank

    rows: list[dict[str, Any]] = []
    _put_clocks(rows)
    is_root = os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0"
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"output={folder}", f"rounds={NUM_ROUNDS}", "compare_with=[]"]
        code = run_rank([str(RUN_FILE), *(word for setting in settings for word in ("--set", setting))])
    if is_root:
        answer.write_text(json.dumps(rows))
    return code


def _put_clocks(rows: list[dict[str, Any]]) -> None:
    """Replace the profiler's functions by ones that add up their seconds."""
    import heterotune.journal

    _clock(MemoryRecorder, "_begin")
    _clock(MemoryRecorder, "_end")
    _clock(MemoryRecorder, "drain")
    _clock(Spans, "_add")
    _clock(RunFolder, "append_memory")
    _clock(RunFolder, "write_spans")
    _clock(heterotune.journal, "pss_bytes")
    dispatch = TensorTracker.__torch_dispatch__

    def dispatched(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started, inside = time.perf_counter(), 0.0

        class Timed:
            """The operation, timed, with its own facts."""

            namespace, _opname = func.namespace, func._opname

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                began = time.perf_counter()
                result = func(*args, **kwargs)
                inside = time.perf_counter() - began
                return result

        result = dispatch(self, Timed(), types, args, kwargs)
        SPENT["tracking"] += time.perf_counter() - started - inside
        return result

    TensorTracker.__torch_dispatch__ = dispatched
    end_round = Journal.end_round

    def ended(self: Journal, round_number: int, seconds: float, *more: Any) -> Any:
        end = end_round(self, round_number, seconds, *more)
        tracking = SPENT.pop("tracking", 0.0)
        recording = sum(SPENT.values())
        SPENT.clear()
        rows.append(
            {
                "round": round_number,
                "round_seconds": round(seconds, 3),
                "recording_seconds": round(recording, 4),
                "tracking_seconds": round(tracking, 4),
                "share": round((recording + tracking) / seconds, 5),
            }
        )
        return end

    Journal.end_round = ended


def _clock(owner: Any, name: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            SPENT[name] += time.perf_counter() - started

    setattr(owner, name, timed)


def _median_share(rows: list[dict[str, Any]], round_number: int) -> float:
    return median(row["share"] for row in rows if row["round"] == round_number)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = REPOSITORY / "docs" / "results" / "profiling_overhead.csv"
    parser.add_argument("--out", type=Path, default=default, help="where the table goes")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
