"""Let faults strike a small federation at random points, and write how each run ended and went on.

    python tools/faults.py --points 21 --seed 2 --output docs/results/faults.csv

Kinds: SIGKILL of a rank and of mpirun, SIGSTOP of a rank, an exception in a client, a full disk (needs root, who can
mount one), a checkpoint that is truncated or has a bit flipped. The exit code is 1 if one of them did not go well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "fault"), str(Path(__file__).parent / "benchmarks")]

from harness import Outcome, strike, uninterrupted_digest, write_run  # noqa: E402
from points import draw_points  # noqa: E402
from tables import write_table  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Strike, print, write; returns the exit code."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        run_file = write_run(Path(name))
        digest, outcomes = uninterrupted_digest(run_file), []
        for point in draw_points(options.seed, options.points):
            if options.only is not None and point.number not in options.only:
                continue
            folder = Path(name) / f"point-{point.number}"
            folder.mkdir()
            outcome = strike(point, run_file, digest, folder)
            outcomes.append(outcome)
            write_table(options.output, [_row(each) for each in outcomes])
            print("good" if outcome.is_good else f"BAD\n{outcome.terminal}\n{outcome}", point, flush=True)
    bad = [outcome.point for outcome in outcomes if not outcome.is_good]
    print(f"{len(outcomes)} faults, {len(bad)} did not go well{f': {bad}' if bad else ''}; {options.output}")
    return 1 if bad else 0


def _row(outcome: Outcome) -> dict[str, object]:
    """Return a line of the table; what the run said is left out."""
    return {field.name: getattr(outcome, field.name) for field in fields(outcome) if field.name != "terminal"}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=21, help="how many faults")
    parser.add_argument("--seed", type=int, default=2, help="where and when they strike")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the points to try; default: all")
    parser.add_argument("--output", type=Path, default=Path("docs/results/faults.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
