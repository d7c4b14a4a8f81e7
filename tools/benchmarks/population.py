"""Start-up, seconds of a round and memory of fleets of 10^3 to 10^6 clients, of which a round draws as many.

    python tools/benchmarks/population.py            # about half an hour; writes docs/results/population.csv
    python tools/benchmarks/population.py --quick    # 10^3 and 10^6 clients, small cohorts: does everything still run?

Every case is a job of its own on one rank: the four embedded models, clients that draw 8 rows each from the embedded
corpus (`data.partition.by: drawn`), one local step. State "none" is fedavg_lora; "kept" is scaffold, whose clients
keep a control variate each, on disk between rounds. startup_seconds: from the process's first moment to the first
round, data_seconds of them for models, tokenizer and data; round_seconds: the median. *_cpu_seconds: the same by the
process's CPU clock, which other work on the machine does not lengthen; the last round's has what comes after it, too.
resident_*: the largest resident size before the rounds, in training, in the rest of the rounds, and of all. state_files
and state_bytes: what holds the clients' states at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from tables import write_table  # noqa: E402

POPULATIONS = (1_000, 10_000, 100_000, 1_000_000)
STRATEGIES = {"none": "fedavg_lora", "kept": "scaffold"}
MODELS = ("small", "large", "large-3q", "large-2q")
NUM_ROUNDS, COHORT = 5, 1_000
QUICK = {"populations": (1_000, 1_000_000), "rounds": 2, "cohort": 40}
LIMIT_SECONDS = 3600
TRAIN = ("train", "encode")
CLOCKS = "clocks.json"


def main() -> int:
    """Measure all cases. Returns the process's exit code."""
    options = _parse()
    if options.case is not None:
        return run_case(options.case, options.scratch)
    populations = QUICK["populations"] if options.quick else options.populations
    rounds, cohort = (QUICK["rounds"], QUICK["cohort"]) if options.quick else (NUM_ROUNDS, options.cohort)
    rows = []
    for state, population in ((state, population) for state in options.states for population in populations):
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            found = measure(Path(scratch), run_of(population, STRATEGIES[state], rounds=rounds, cohort=cohort))
        rows.append({"clients": population, "cohort": cohort, "state": state, **found})
        print(json.dumps(rows[-1]), flush=True)
        write_table(options.out, rows)
    return 0


def run_of(population: int, strategy: str, *, rounds: int, cohort: int) -> dict[str, Any]:
    """Return a run file's content."""
    of_type = {name: population // len(MODELS) for name in MODELS}
    fleet = [{"name": name, "model": f"embedded:{name}", "clients": count} for name, count in of_type.items()]
    options = {"adapter_rank": 2, "targets": ["q_proj"]}
    return {
        "name": "population",
        "seed": 1,
        "rounds": rounds,
        "fleet": fleet,
        "data": {
            "source": "embedded:stdlib",
            "heldout": "pool",
            "max_tokens": 16,
            "partition": {"by": "drawn", "rows_per_client": 8},
        },
        "cohort": {"clients": cohort},
        "local": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3},
        "strategy": strategy,
        strategy: options,
        "backbone": {"ds_config": "none"},
        "chunk": {"clients": min(50, cohort // len(MODELS))},
        "evaluate": {"every_rounds": rounds, "max_rows": 32},
        "checkpoint": {"every_rounds": 1, "keep": 1},
        "tensorboard": False,
    }


def measure(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Run a job and return its figures."""
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    out = folder / "run"
    out.mkdir()
    variables = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HETEROTUNE_NUM_RANKS": "1"}
    command = [sys.executable, __file__, "--case", str(folder / "run.yaml"), "--scratch", str(out)]
    subprocess.run(command, check=True, env=os.environ | variables, timeout=LIMIT_SECONDS, stderr=subprocess.DEVNULL)
    summary, cpu_seconds = (json.loads((out / name).read_text()) for name in ("summary.json", CLOCKS))
    states = [path.stat().st_size for path in (out / "clients").glob("*")]
    return {
        "startup_seconds": round(summary["startup_seconds"], 2),
        "data_seconds": round(summary["startup"]["models, tokenizer, data"], 2),
        "startup_cpu_seconds": round(cpu_seconds[0], 2),
        "round_seconds": round(summary["seconds_per_round"], 3),
        "round_cpu_seconds": round(median(end - start for start, end in pairwise(cpu_seconds)), 3),
        **_resident(out),
        "state_files": len(states),
        "state_bytes": sum(states),
    }


def run_case(run_file: Path, out: Path) -> int:
    """Run a job in this process and write its CPU seconds before every round and after the last."""
    from heterotune import worker

    run, cpu_seconds = worker._run, []

    def clocked(*arguments: Any, **options: Any) -> None:
        from heterotune.simulation import Simulation  # imported when the worker does it

        run_round = Simulation.run_round

        def clocked_round(self: Simulation, round_number: int) -> None:
            cpu_seconds.append(time.process_time())
            run_round(self, round_number)

        Simulation.run_round = clocked_round
        run(*arguments, **options)
        cpu_seconds.append(time.process_time())
        (out / CLOCKS).write_text(json.dumps(cpu_seconds))

    worker._run = clocked
    return worker.main([str(run_file), "--run-dir", str(out)])


def _resident(out: Path) -> dict[str, int]:
    """Return the largest resident size before the rounds, in training, in the rest of rounds, and of the whole job."""
    peaks = {"start": 0, "train": 0, "rest": 0}
    for line in (out / "memory.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "host_resident":
            part = "start" if record["round"] == 0 else "train" if record["phase"] in TRAIN else "rest"
            peaks[part] = max(peaks[part], record["peak_bytes"])
    found = {f"resident_{part}_bytes": peak for part, peak in peaks.items()}
    return found | {"resident_peak_bytes": max(peaks.values())}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = REPOSITORY / "docs" / "results" / "population.csv"
    parser.add_argument("--out", type=Path, default=default, help="where the table goes")
    parser.add_argument("--quick", action="store_true", help="small cohorts")
    parser.add_argument("--cohort", type=int, default=COHORT, help="clients of a round")
    parser.add_argument("--populations", type=int, nargs="+", default=POPULATIONS, help="clients of the fleets")
    parser.add_argument("--states", nargs="+", choices=STRATEGIES, default=tuple(STRATEGIES), help="what clients keep")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the jobs' files")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
