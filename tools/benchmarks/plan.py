"""The plan against what a real worker measures: host resident peak of the train phase, on every rank.

    python tools/benchmarks/plan.py                  # about 6 minutes; writes docs/results/plan_check.csv
    python tools/benchmarks/plan.py --only wide      # one shape, printed

Every run is the engine's worker on fresh processes, one thread each, two rounds; the peak is the higher of the two.
Each shape runs twice: with glibc's mmap threshold fixed (MALLOC_MMAP_THRESHOLD_=1048576, freed tensors go back to the
system at once), where the peak repeats within 1 % and is what the model explains, and with glibc's default, where the
heap keeps holes: the same run then differs from one time to the next by up to 20 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from plan_shapes import SHAPES, Shape  # noqa: E402
from tables import write_table  # noqa: E402

from heterotune.config.load import dump_run, parse_run  # noqa: E402
from heterotune.fleet.model_types import read_model_types  # noqa: E402
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix  # noqa: E402
from heterotune.launching.worker_environment import usable_cores, worker_variables  # noqa: E402
from heterotune.planning.calibration import CPU_CORE, FIXED_THRESHOLD_VARIABLE, returns_memory  # noqa: E402
from heterotune.planning.cluster import Cluster  # noqa: E402
from heterotune.planning.plan import estimate_memory  # noqa: E402
from heterotune.planning.setting import Setting  # noqa: E402

THRESHOLD_BYTES = 1 << 20
HEAPS = ("returning", "default")


def main() -> int:
    """Run the shapes. Returns the process's exit code."""
    options = _parse()
    rows = []
    for shape in SHAPES:
        if options.only in (None, shape.name):
            for kind in HEAPS:
                rows += check(shape, kind)
                print(json.dumps(rows[-1]), flush=True)
    if options.only is None:
        write_table(options.out / "plan_check.csv", rows)
    worst = max((abs(row["error"]) for row in rows if row["heap"] == "returning"), default=0.0)
    print(f"largest error with the threshold fixed: {worst:.1%}")
    return 0


def check(shape: Shape, kind: str) -> list[dict[str, object]]:
    """Return one row per rank: what was measured and what the plan says."""
    heap(kind)
    config = parse_run(shape.run())
    cluster = Cluster(ranks_per_node=shape.num_ranks)
    model_types = read_model_types(config.fleet)
    setting = Setting(config, model_types, cluster, CPU_CORE, returns_memory())
    rows = []
    for mpi_rank, measured_bytes in enumerate(measure(shape)[0]):
        estimates = estimate_memory(setting, {0: shape.clients}, mpi_rank=mpi_rank)
        planned_bytes = estimates["train", "host_resident"]
        rows.append(
            {
                "shape": shape.name,
                "heap": kind,
                "ranks": shape.num_ranks,
                "mpi_rank": mpi_rank,
                "ds_config": shape.ds_config,
                "width": model_types[0].width,
                "layers": model_types[0].num_layers,
                "vocab": model_types[0].vocab_size,
                "tokens": shape.max_tokens,
                "rows": shape.batch_size * shape.clients,
                "checkpointing": shape.checkpointing,
                "strategy": shape.strategy,
                "measured_mib": round(measured_bytes / 2**20),
                "planned_mib": round(planned_bytes / 2**20),
                "error": round(planned_bytes / measured_bytes - 1, 3),
            }
        )
    return rows


def heap(kind: str) -> None:
    """Choose how glibc treats freed tensors, for this process's plans and for the runs that it starts."""
    os.environ.pop(FIXED_THRESHOLD_VARIABLE, None)
    if kind == "returning":
        os.environ[FIXED_THRESHOLD_VARIABLE] = str(THRESHOLD_BYTES)


def measure(shape: Shape) -> tuple[list[int], float]:
    """Return every rank's resident peak in the train phase, and the seconds of the faster round's training."""
    with tempfile.TemporaryDirectory() as folder:
        run_file, run_dir = Path(folder) / "run.yaml", Path(folder) / "run"
        run_dir.mkdir()
        run_file.write_text(dump_run(parse_run(shape.run())), encoding="utf-8")
        subprocess.run([*_start(shape), str(run_file), "--run-dir", str(run_dir)], check=True, env=_environment(shape))
        records = _lines(run_dir / "memory.jsonl")
        metrics = _lines(run_dir / "metrics.jsonl")
    peaks = [0] * shape.num_ranks
    for record in records:
        if record["phase"] == "train" and record["kind"] == "host_resident":
            peaks[record["mpi_rank"]] = max(peaks[record["mpi_rank"]], record["peak_bytes"])
    return peaks, min(entry["value"] for entry in metrics if entry["name"] == "seconds/train")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _start(shape: Shape) -> list[str]:
    worker = [sys.executable, "-m", "heterotune.worker"]
    if shape.num_ranks == 1:
        return worker
    prefix = mpirun_prefix(find_mpirun(), shape.num_ranks, num_cores=usable_cores(), as_root=os.geteuid() == 0)
    return [*prefix, sys.executable, "-m", "mpi4py", *worker[1:]]


def _environment(shape: Shape) -> dict[str, str]:
    variables = worker_variables(os.environ, threads_per_rank=1, has_gpu=False)
    alone = {"HETEROTUNE_NUM_RANKS": "1"} if shape.num_ranks == 1 else {}
    return {**os.environ, **variables, **alone, "PYTHONPATH": str(REPOSITORY / "engine"), "PYTHONWARNINGS": "ignore"}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the table goes")
    parser.add_argument("--only", choices=[shape.name for shape in SHAPES], help="one shape; writes nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
