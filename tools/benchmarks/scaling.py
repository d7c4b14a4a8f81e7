"""Strong and weak scaling, root against slices, and a performance model that predicts 8 to 1,024 ranks.

    python tools/benchmarks/scaling.py              # about 5 minutes; writes docs/results/scaling*.csv
    python tools/benchmarks/scaling.py --turns 1 --out /tmp

In one job of two ranks every point's rounds are made by each rank alone and by both together, in turn, so that what
else the machine does meets all alike. The model of `heterotune plan` is fitted to part of them and tested on the
rest (other cohorts, chunks and fleets, the sharded topology, everything on 2 ranks). Jobs of 4 and 8 ranks share the
cores: they check that results are the same, and which topology is quicker. Seconds are CPU seconds where a rank works
itself, so that other work on the machine counts little; wall time stands beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import run_worker  # noqa: E402
from scaling_model import (  # noqa: E402
    COLLECTIVE_FITTED,
    VALUES_OF_KILOBYTE,
    Collected,
    Rounds,
    fit,
    predicted_collect,
    predicted_round,
    prediction_rows,
)
from scaling_points import POINTS, STRONG, WEAK  # noqa: E402
from tables import write_table  # noqa: E402

from heterotune.planning.calibration import Calibration, save_calibration  # noqa: E402

TOPOLOGIES = ("root", "sharded")
KILOBYTES = (64, 1024, 4096, 16384)
FEW_KILOBYTES = (64, 4096)
MANY = (4, 8)


def main() -> int:
    """Measure, fit, test and predict. Returns the process's exit code."""
    options = _parse()
    rounds: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    collected: dict[tuple[int, str, int], list[dict[str, float]]] = defaultdict(list)
    digests: dict[str, set[str]] = defaultdict(set)
    for num_ranks in (2, *options.many):
        arguments = [
            f"--turns={options.turns}",
            "--kilobytes",
            *map(str, KILOBYTES if num_ranks == 2 else FEW_KILOBYTES),
        ]
        arguments += ["--alone"] if num_ranks == 2 else ["--points", STRONG]
        answer = run_worker(Path(__file__).with_name("scaling_rank.py"), arguments, num_ranks=num_ranks)
        for name, ranks, found in answer["rounds"]:
            rounds[name, ranks] += found
        for name, digest in answer["digests"]:
            digests[name].add(digest)
        for row in answer["collective"]:
            collected[row["kilobytes"], row["topology"], row["ranks"]].append(row)
        print(f"{num_ranks} ranks, load average {os.getloadavg()[0]:.1f}", flush=True)
    differing = [name for name, found in digests.items() if len(found) > 1]
    assert not differing, f"results depend on the number of ranks: {differing}"
    calibration = fit(rounds, collected)
    notes = _notes(options)
    tables = {
        "scaling": round_rows(rounds, calibration),
        "scaling_collective": collective_rows(collected, calibration),
        "scaling_predicted": prediction_rows(calibration),
    }
    for name, rows in tables.items():
        print(name, *rows, sep="\n")
        write_table(options.out / f"{name}.csv", rows, notes)
    save_calibration(calibration, options.out / "scaling_calibration.json")
    print(*strong_and_weak(rounds), *errors(tables), sep="\n")
    return 0


def round_rows(rounds: Rounds, calibration: Calibration) -> list[dict[str, Any]]:
    """Return a row for each point and number of ranks: measured, predicted, error."""
    rows = []
    for point in POINTS:
        for num_ranks in (1, 2):
            busy, wall = zip(*rounds[point.name, num_ranks], strict=True)
            predicted = predicted_round(point, num_ranks, calibration).seconds
            rows.append(
                {
                    "point": point.name,
                    "ranks": num_ranks,
                    "clients_a_round": point.cohort,
                    "clients_a_chunk": point.chunk,
                    "topology": point.topology,
                    "use": "fitted" if num_ranks in point.fitted_on else "held out",
                    "rounds": len(busy),
                    "busy_seconds": round(median(busy), 4),
                    "least": round(min(busy), 4),
                    "most": round(max(busy), 4),
                    "wall_seconds": round(median(wall), 4),
                    "predicted_seconds": round(float(predicted), 4),
                    "error": round(float(predicted) / median(busy) - 1, 3),
                }
            )
    return rows


def collective_rows(collected: Collected, calibration: Calibration) -> list[dict[str, Any]]:
    """Return a row for each size and number of ranks: both topologies, and which is quicker."""
    rows = []
    for kilobytes, num_ranks in sorted({(size, ranks) for size, _, ranks in collected}):
        row: dict[str, Any] = {"ranks": num_ranks, "kilobytes": kilobytes}
        row["use"] = "fitted" if (kilobytes, num_ranks) in COLLECTIVE_FITTED else "held out"
        row["turns"] = len(collected[kilobytes, "root", num_ranks])
        seconds = {}
        for name in TOPOLOGIES:
            turns = collected[kilobytes, name, num_ranks]
            measured = median(t["work"] for t in turns) + min(t["moving"] for t in turns)
            predicted = predicted_collect(name, kilobytes * VALUES_OF_KILOBYTE, num_ranks, calibration)
            wall = min(t["wall"] - t["encode"] for t in turns)
            seconds[name] = measured, predicted
            row |= {f"{name}_seconds": round(measured, 5), f"{name}_wall_fastest": round(wall, 5)}
            row |= {f"{name}_predicted": round(predicted, 5)}
        for n, which in enumerate(("measured", "predicted")):
            row[f"quicker_{which}"] = min(seconds, key=lambda name, n=n: seconds[name][n])
        rows.append(row)
    return rows


def strong_and_weak(rounds: Rounds) -> list[str]:
    """Say how what the busiest rank has to do scales from 1 to 2 ranks."""

    def seconds(name: str, num_ranks: int) -> float:
        return median(busy for busy, _ in rounds[name, num_ranks])

    one, two, half, whole = seconds(STRONG, 1), seconds(STRONG, 2), seconds(WEAK[0], 1), seconds(WEAK[1], 2)
    return [
        f"strong, {STRONG}: {one:.3f} s on 1 rank, {two:.3f} s on 2: efficiency {one / two / 2:.2f}",
        f"weak, {WEAK[0]} on 1 rank {half:.3f} s, {WEAK[1]} on 2 {whole:.3f} s: efficiency {half / whole:.2f}",
    ]


def errors(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Say how far the model is from what it was not fitted to."""
    told = []
    for use in ("fitted", "held out"):
        found = sorted(abs(row["error"]) for row in tables["scaling"] if row["use"] == use)
        told.append(f"rounds, {use}: {len(found)} points, error median {median(found):.0%}, largest {found[-1]:.0%}")
    return told


def _notes(options: argparse.Namespace) -> list[str]:
    return [
        f"{options.turns} turns; medians; one global_adapter_sha256 on 1 and 2 ranks, on {options.many} for: {STRONG}",
        "other work ran on the machine at the same time: busy seconds are CPU seconds of the busiest rank outside the",
        "channel's calls; of the collective part, work is CPU seconds, and moving is the fastest turn of the last rank",
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the tables go")
    parser.add_argument("--turns", type=int, default=6, help="rounds of every point, after one to warm up")
    parser.add_argument("--many", type=int, nargs="*", default=MANY, help="ranks of the jobs that share the cores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
