"""Runs a grid of federated methods and seeds and writes one table of what came out.

    python tools/experiments/compare_strategies.py RUN.yaml --strategies fedavg_lora heterotune --seeds 1 2 3
    python tools/experiments/compare_strategies.py RUN.yaml --strategies fedavg_lora flora --seeds 1 2 \\
        --slurm --nodes 2 --ranks-per-node 4 --time 2:00:00          # one Slurm array per method, then come again

Every cell is a run of its own in OUTPUT/METHOD/seed-N. What is done is not done again, and a run that stopped goes on,
so the same command brings an interrupted grid to its end; it writes OUTPUT/table.csv and table.md each time, from the
cells that are done.

Columns: mean and standard deviation over seeds of the mean over model types (of a personal method: of each client's own
model on its own held-out rows), the same of the worst model type, and what a method gains over `--baseline` seed by
seed: points of accuracy, or nats per token of loss where there is no accuracy; more is better.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

from heterotune.config.load import load_run  # noqa: E402
from heterotune.config.methods import METHODS  # noqa: E402
from heterotune.config.schema import RunConfig  # noqa: E402
from heterotune.errors import HeterotuneError, LaunchError  # noqa: E402
from heterotune.launching.local import failure_text, run_local  # noqa: E402
from heterotune.report.run_record import StrategyRecord, read_run  # noqa: E402
from heterotune.run_folder import RunFolder  # noqa: E402


@dataclass(frozen=True)
class Cell:
    """One method with one seed.

    Attributes:
        method: The strategy's name.
        seed: The run's seed.
        folder: Its run folder, which may not be there yet.
    """

    method: str
    seed: int
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether its run has come to its end."""
        return self.folder.is_dir() and RunFolder.open(self.folder).find_summary() is not None


@dataclass(frozen=True)
class Outcome:
    """What came out of a cell; losses in nats per token, accuracies as shares, by model type."""

    loss: Mapping[str, float]
    accuracy: Mapping[str, float]
    up_bytes: float
    down_bytes: float
    seconds_per_round: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the table. Returns the process's exit code."""
    options = _parse(arguments)
    try:
        cells = grid(options.output, options.strategies, options.seeds)
        if options.slurm:
            _submit(options, cells)
        else:
            _run_missing(options, cells)
        rows = table({cell: read_outcome(cell) for cell in cells if cell.is_done}, options.baseline)
    except HeterotuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if rows:
        _write(options.output, rows)
    missing = [cell for cell in cells if not cell.is_done]
    for cell in missing:
        print(f"not done: {cell.method}, seed {cell.seed}: {cell.folder}")
    return 1 if missing and not options.slurm else 0


def grid(output: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells, seed by seed, so that an interrupted grid has whole comparisons first."""
    return [Cell(method, seed, output / method / f"seed-{seed}") for seed in seeds for method in methods]


def config_of(run_yaml: Path, overrides: Sequence[str], cell: Cell) -> RunConfig:
    """Return the run of a cell."""
    return load_run(run_yaml, [*overrides, f"strategy={cell.method}", "compare_with=[]", f"seed={cell.seed}"])


def read_outcome(cell: Cell) -> Outcome:
    """Return what came out of a run that has ended."""
    (record,) = read_run(cell.folder).strategies
    personal = _last(record, "loss/personal")
    types = record.summary["model_types"].values()
    return Outcome(
        personal or _last(record, "loss/eval"),
        _last(record, "accuracy/personal" if personal else "accuracy/eval"),
        statistics.fmean(of_type["up_bytes_per_client_round"] for of_type in types),
        statistics.fmean(of_type["down_bytes_per_client_round"] for of_type in types),
        record.summary["seconds_per_round"],
    )


def table(outcomes: Mapping[Cell, Outcome], baseline: str) -> list[dict[str, object]]:
    """Return one row for each method."""
    of_baseline = {cell.seed: outcome for cell, outcome in outcomes.items() if cell.method == baseline}
    rows = []
    for method in dict.fromkeys(cell.method for cell in outcomes):
        mine = {cell.seed: outcome for cell, outcome in outcomes.items() if cell.method == method}
        gains = [gain(outcome, of_baseline[seed]) for seed, outcome in mine.items() if seed in of_baseline]
        found = list(mine.values())
        row: dict[str, object] = {"method": method, "form": METHODS[method].form, "seeds": len(mine)}
        row |= _spread("loss", [statistics.fmean(one.loss.values()) for one in found])
        row |= _spread("worst_type_loss", [max(one.loss.values()) for one in found])
        row |= _spread("accuracy", [statistics.fmean(one.accuracy.values()) for one in found if one.accuracy])
        row |= _spread(f"gain_over_{baseline}", gains)
        for name in ("up_bytes", "down_bytes", "seconds_per_round"):
            row[name] = round(statistics.fmean(getattr(one, name) for one in found), 3)
        rows.append(row)
    return rows


def gain(outcome: Outcome, baseline: Outcome) -> float:
    """Return what one run has over another: points of accuracy if both have one, else nats per token of loss."""
    if outcome.accuracy and baseline.accuracy:
        return 100 * (statistics.fmean(outcome.accuracy.values()) - statistics.fmean(baseline.accuracy.values()))
    return statistics.fmean(baseline.loss.values()) - statistics.fmean(outcome.loss.values())


def _spread(name: str, values: Sequence[float]) -> dict[str, object]:
    """Return mean and sample standard deviation as two columns; empty where there is nothing."""
    mean = round(statistics.fmean(values), 5) if values else ""
    return {name: mean, f"{name}_std": round(statistics.stdev(values), 5) if len(values) > 1 else ""}


def _last(record: StrategyRecord, name: str) -> dict[str, float]:
    """Return model type -> the last value of a metric."""
    return {model_type: curve.last[1] for model_type, curve in record.metrics.by(name, "model_type").items()}


def _run_missing(options: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Run on this machine what is not done, one cell after the other.

    Raises:
        LaunchError: If a run fails; those before it are done.
    """
    for cell in cells:
        config = config_of(options.run_yaml, options.overrides, cell)  # all are checked, also those that are done
        if cell.is_done:
            continue
        print(f"{cell.method}, seed {cell.seed} ...", flush=True)
        is_new = not cell.folder.exists()
        if is_new:
            cell.folder.mkdir(parents=True)
            RunFolder.open(cell.folder).log_folder.mkdir()
            RunFolder.open(cell.folder).write_config(config)
        folder = RunFolder.open(cell.folder)
        code = run_local(folder, options.ranks, threads_per_rank=config.threads_per_rank, resume=not is_new)
        if code != 0:
            raise LaunchError(f"{cell.folder}: the run ended with exit code {code}.\n{failure_text(folder)}")


def _submit(options: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Submit one Slurm array for each method that has none yet."""
    for method in dict.fromkeys(cell.method for cell in cells):
        mine = [cell for cell in cells if cell.method == method]
        if any(cell.folder.exists() for cell in mine):
            continue
        seeds = ",".join(str(cell.seed) for cell in mine)
        settings = [*options.overrides, f"strategy={method}", "compare_with=[]"]
        command = [sys.executable, "-c", "from heterotune.cli import main; main()", "submit"]
        command += [str(options.run_yaml), "--array", seeds]
        command += ["--run-dir", str(mine[0].folder.parent), *(f"--set={setting}" for setting in settings)]
        command += options.slurm_options
        if subprocess.run(command).returncode != 0:
            raise LaunchError(f"{method}: heterotune submit refused the job.")


def _write(output: Path, rows: Sequence[Mapping[str, object]]) -> None:
    from tables import write_table

    write_table(output / "table.csv", rows, __doc__.splitlines()[-4:])
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    (output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_yaml", type=Path, metavar="RUN.yaml")
    parser.add_argument("--strategies", nargs="+", required=True, choices=sorted(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--baseline", default="fedavg_lora", choices=sorted(METHODS), metavar="METHOD")
    parser.add_argument("--output", type=Path, default=Path("runs/compare_strategies"))
    parser.add_argument("--ranks", type=int, default=1, help="MPI ranks of a run on this machine")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--slurm", action="store_true", help="submit; options that are not known here go to sbatch")
    options, options.slurm_options = parser.parse_known_args(arguments)
    if options.slurm_options and not options.slurm:
        parser.error(f"unknown: {' '.join(options.slurm_options)}")
    options.output = options.output.absolute()
    return options


if __name__ == "__main__":
    raise SystemExit(main())
