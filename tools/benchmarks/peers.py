"""The same federated LoRA job in heterotune, pfl, Flower and a bare PyTorch loop: seconds per round.

    python tools/benchmarks/peers.py --work B            # installs the peers by itself, into runs/peers/venv
    python tools/benchmarks/peers.py --work A --quick    # a minute or two: does everything still run and agree?

The job (model weights, token rows, cohorts, batches, first adapter) is written once with the engine's own functions;
every system reads it, computes with 2 threads in all, and must end with the same adapter. The systems take turns, each
run is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent / "peers"), str(REPOSITORY / "engine")]

import installation  # noqa: E402
import report  # noqa: E402
from job import load_job, relative_difference, save_job  # noqa: E402
from make_job import WORKS, make_job, write_run_file  # noqa: E402
from systems import SYSTEMS, RunFailed, Setting, run_system  # noqa: E402

# Adapters that differ by more than this share of what was learned are not the same job's: sums in another order give
# about 1e-6 in fp32, one client in the wrong round gives more than 1e-2.
TOLERANCE = 1e-4
RULE = (
    "A run's figure is its median time from the end of one round to the end of the next, without the first round "
    "(start-up, caches) and the last (heterotune evaluates there). Ratios are between runs of one turn. Final adapters "
    f"are equal within {TOLERANCE:.0e} of what was learned."
)
NUM_ROUNDS = {"A": 12, "B": 32}
QUICK_ROUNDS = 5
NUM_TURNS = 5


def main() -> int:
    """Run the benchmark. Returns the process's exit code."""
    options = _parse()
    folder = options.folder / f"work-{options.work}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = installation.install(options.folder / "venv", say=_say)
    num_rounds = options.rounds or (QUICK_ROUNDS if options.quick else NUM_ROUNDS[options.work])
    run_file = write_run_file(folder, WORKS[options.work], num_rounds=num_rounds, chunk_clients=options.chunk_clients)
    save_job(folder / "job.npz", make_job(run_file))
    setting = Setting(folder, run_file, folder / "job.npz", python, options.timeout_seconds)
    try:
        runs = take_turns(options.systems, setting, options.runs or (1 if options.quick else NUM_TURNS))
    except RunFailed as error:
        _say(f"error: {error}")
        return 1
    facts = report.facts(REPOSITORY, shlex.join([Path(sys.executable).name, *sys.argv]), installation.versions(python))
    facts |= {"work": f"{options.work}: {WORKS[options.work]}, {num_rounds} rounds", "rule": RULE}
    table_file = options.output / f"peers-{options.work}.csv"
    report.write(table_file, runs, facts)
    report.draw(table_file, python)
    _say(f"{report.summary(runs)}\n{table_file}")
    return 0


def take_turns(names: Sequence[str], setting: Setting, num_turns: int) -> list[report.Run]:
    """Run every system once in each turn; each turn begins with another one.

    Raises:
        RunFailed: If a system fails, or its adapter is not that of the first run.
    """
    job = load_job(setting.job_file)
    runs: list[report.Run] = []
    reference = None
    for turn in range(num_turns):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            load_average = os.getloadavg()[0]
            outcome = run_system(name, setting)
            reference = reference or outcome.lora
            difference = relative_difference(outcome.lora, reference, job.lora)
            if not difference <= TOLERANCE:
                gap = f"{difference:.1e} of what was learned away from that of {names[0]}"
                raise RunFailed(f"{name}, run {turn + 1}: its adapter is {gap}; the tolerance is {TOLERANCE:.0e}.")
            runs.append(report.Run(name, turn + 1, outcome.timed_seconds, difference, load_average, outcome.note))
            figure = f"{runs[-1].median_seconds:9.4f} s a round, adapter within {difference:.1e}"
            _say(f"run {turn + 1}  {name:<20} {figure}")
    return runs


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", choices=sorted(WORKS), required=True)
    parser.add_argument("--runs", type=int, help=f"runs of each system; default {NUM_TURNS}, quick 1")
    parser.add_argument("--rounds", type=int, help=f"rounds of a run, at least 4; default {NUM_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help=f"one run of {QUICK_ROUNDS} rounds")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--chunk-clients", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "peers", help="the peers' venv, logs")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "runs" / "peers", help="where table and plot go")
    parser.add_argument("--timeout-seconds", type=int, default=1800, help="longest run of a system")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 4:
        parser.error("--rounds must be at least 4: the first and the last do not count.")
    options.folder, options.output = options.folder.resolve(), options.output.resolve()
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
