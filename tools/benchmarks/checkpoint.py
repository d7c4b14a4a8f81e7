"""What saving costs a round of the demo: checkpoints after every round, and the finished chunks of a round.

    python tools/benchmarks/checkpoint.py            # about 5 minutes; writes docs/results/checkpoint.csv
    python tools/benchmarks/checkpoint.py --quick    # two rounds, once: does everything still run?

`nothing` saves only at the end; `default` is the demo as it is; `every chunk` has progress_seconds = 0 besides. The
runs of the kinds take turns. waiting_*: seconds of the root in a round in which it saves or waits for what is saved
(phases "checkpoint" and "progress"), as a share of the round. background_*: seconds a round in which a thread of the
root writes meanwhile. Seconds of a round are medians over all rounds but the first of each run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import run_worker  # noqa: E402
from tables import write_table  # noqa: E402

DEMO = REPOSITORY / "launch" / "runs" / "demo.yaml"
NUM_RANKS = 2
NUM_RUNS, NUM_ROUNDS = 2, 5
KINDS = {
    "nothing": ("checkpoint.every_rounds=0",),
    "default": (),
    "every chunk": ("checkpoint.progress_seconds=0",),
}


def main() -> int:
    """Run the demo in all ways. Returns the process's exit code."""
    options = _parse()
    if options.kind is not None:
        return run_rank(options.kind, options.rounds, options.answer)
    num_runs, rounds = (1, 2) if options.quick else (NUM_RUNS, NUM_ROUNDS)
    runs: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in KINDS}
    for _ in range(num_runs):
        for kind, found in runs.items():
            found.append(run_worker(Path(__file__), [kind, "--rounds", str(rounds)], num_ranks=NUM_RANKS))
    rows = [row_of(kind, found) for kind, found in runs.items()]
    write_table(options.out / "checkpoint.csv", rows)
    print(*map(json.dumps, rows), sep="\n")
    return 0


def row_of(kind: str, runs: list[dict[str, list[float]]]) -> dict[str, object]:
    """Return a line of the table."""
    rounds = [seconds for run in runs for seconds in run["round"]]
    waiting = [seconds for run in runs for seconds in run["waiting"]]
    background = [sum(run["background"]) / (len(run["round"]) + 1) for run in runs]
    return {
        "saves": kind,
        "ranks": NUM_RANKS,
        "rounds": len(rounds),
        "seconds_per_round": round(statistics.median(rounds), 3),
        "fastest_round_seconds": round(min(rounds), 3),
        "slowest_round_seconds": round(max(rounds), 3),
        "waiting_seconds_per_round": round(statistics.mean(waiting), 4),
        "waiting_share": round(sum(waiting) / sum(rounds), 5),
        "background_seconds_per_round": round(statistics.mean(background), 4),
    }


def run_rank(kind: str, rounds: int, answer: Path) -> int:
    """Run one rank of the demo; the root writes the seconds of its rounds and of what it saved."""
    from heterotune import worker
    from heterotune.background import Background

    start, seconds = Background.start, []

    def start_timed(self: Background, task: Callable[[], object]) -> None:
        def timed() -> None:
            started = time.perf_counter()
            try:
                task()
            finally:
                seconds.append(time.perf_counter() - started)

        start(self, timed)

    Background.start = start_timed
    with tempfile.TemporaryDirectory() as folder:
        settings = ["compare_with=[]", f"rounds={rounds}", f"output={folder}", *KINDS[kind]]
        code = worker.main([str(DEMO), *(word for setting in settings for word in ("--set", setting))])
        for metrics in Path(folder).glob("*/metrics.jsonl"):
            answer.write_text(json.dumps({**seconds_of(metrics, rounds), "background": seconds}))
    return code


def seconds_of(metrics: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round but the first, and of them those in which the root saved or waited."""
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    by_round = {number: {} for number in range(2, rounds + 1)}
    for entry in entries:
        if entry["name"].startswith("seconds/") and entry["round"] in by_round:
            by_round[entry["round"]][entry["name"]] = entry["value"]
    waiting = [found.get("seconds/checkpoint", 0.0) + found.get("seconds/progress", 0.0) for found in by_round.values()]
    return {"round": [found["seconds/round"] for found in by_round.values()], "waiting": waiting}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="few rounds, once")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder for the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
