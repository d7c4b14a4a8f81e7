"""Runs a grid of federated methods and seeds and writes one table of what came out.

    python tools/experiments/compare_strategies.py RUN.yaml --strategies fedavg_lora heterotune --seeds 1 2 3
    python tools/experiments/compare_strategies.py RUN.yaml --strategies fedavg_lora flora --seeds 1 2 \\
        --slurm --nodes 2 --ranks-per-node 4 --time 2:00:00          # one Slurm array per method, then come again

Every cell is a run of its own in OUTPUT/METHOD/seed-N. What is done is not done again, and a run that stopped goes on,
so the same command brings an interrupted grid to its end; it writes OUTPUT/table.csv and table.md each time, from the
cells that are done. OUTPUT/asked keeps what each cell was asked for: other settings want another OUTPUT.

Columns: mean and standard deviation over seeds of the mean over model types (of a personal method: of each client's own
model on its own held-out rows; empty where data.heldout leaves clients none), the same of the worst model type, of the
mean over clients of each one's own held-out rows, and what a method gains over `--baseline` seed by seed on those rows,
which are the same for all: points of accuracy, or nats per token of loss where there is no accuracy; more is better.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

from grid_cells import check_asked, is_done, note_asked, open_cell  # noqa: E402
from grid_outcomes import Outcome, read_outcome, table  # noqa: E402

from heterotune.config.load import load_run  # noqa: E402
from heterotune.config.methods import METHODS  # noqa: E402
from heterotune.config.schema import RunConfig  # noqa: E402
from heterotune.errors import HeterotuneError, LaunchError  # noqa: E402
from heterotune.launching.local import failure_text, run_local  # noqa: E402


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
    def asked(self) -> Path:
        """The run that it was asked for, before "auto" became something; there once the cell was begun or submitted."""
        return self.folder.parents[1] / "asked" / f"{self.method}-seed-{self.seed}.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the table. Returns the process's exit code."""
    options = _parse(arguments)
    try:
        cells = grid(options.output, options.strategies, options.seeds)
        configs = {cell: config_of(options.run_yaml, options.overrides, cell) for cell in cells}
        check_asked(configs)
        if options.slurm:
            _submit(options, configs)
        else:
            run_missing(configs, options.ranks)
        rows = table(_outcomes(cells), options.baseline)
    except HeterotuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    if rows:
        write_tables(options.output, rows)
    missing = [cell for cell in cells if not is_done(cell)]
    for cell in missing:
        print(f"not done: {cell.method}, seed {cell.seed}: {cell.folder}")
    return 1 if missing and not options.slurm else 0


def grid(output: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells, seed by seed, so that an interrupted grid has whole comparisons first."""
    return [Cell(method, seed, output / method / f"seed-{seed}") for seed in seeds for method in methods]


def config_of(run_yaml: Path, overrides: Sequence[str], cell: Cell) -> RunConfig:
    """Return the run of a cell."""
    return load_run(run_yaml, [*overrides, f"strategy={cell.method}", "compare_with=[]", f"seed={cell.seed}"])


def _outcomes(cells: Sequence[Cell]) -> dict[tuple[str, int], Outcome]:
    """Return what came out of the cells that are done, by method and seed."""
    return {(cell.method, cell.seed): read_outcome(cell.folder) for cell in cells if is_done(cell)}


def run_missing(configs: Mapping[Cell, RunConfig], num_ranks: int) -> None:
    """Run on this machine what is not done, one cell after the other.

    Raises:
        LaunchError: If a run fails; those before it are done.
    """
    for cell, config in configs.items():
        if is_done(cell):
            continue
        print(f"{cell.method}, seed {cell.seed} ...", flush=True)
        folder, goes_on = open_cell(cell, config)
        code = run_local(folder, num_ranks, threads_per_rank=config.threads_per_rank, resume=goes_on)
        if code != 0:
            raise LaunchError(f"{cell.folder}: the run ended with exit code {code}.\n{failure_text(folder)}")


def _submit(options: argparse.Namespace, configs: Mapping[Cell, RunConfig]) -> None:
    """Submit what was not yet: a new method as one array, and each seed that is added later as a job of its own.

    Raises:
        LaunchError: If a job is refused; those before it are submitted.
    """
    for method in dict.fromkeys(cell.method for cell in configs):
        mine = [cell for cell in configs if cell.method == method and not cell.asked.exists()]
        folder = options.output / method
        jobs = [[cell] for cell in mine] if folder.exists() else [mine]
        for cells in filter(None, jobs):
            if subprocess.run(submit_command(options, cells, as_array=not folder.exists())).returncode != 0:
                raise LaunchError(f"{method}: heterotune submit refused the job.")
            for cell in cells:
                note_asked(cell, configs[cell])


def submit_command(options: argparse.Namespace, cells: Sequence[Cell], *, as_array: bool) -> list[str]:
    """Return the command that submits cells of one method; all of them as one array, or the only one."""
    settings = [*options.overrides, f"strategy={cells[0].method}", "compare_with=[]"]
    where = ["--run-dir", str(cells[0].folder)]
    if as_array:
        where = ["--run-dir", str(cells[0].folder.parent), "--array", ",".join(str(cell.seed) for cell in cells)]
    else:
        settings.append(f"seed={cells[0].seed}")
    command = [sys.executable, "-c", "from heterotune.cli import main; main()", "submit", str(options.run_yaml)]
    return [*command, *where, *(f"--set={setting}" for setting in settings), *options.slurm_options]


def write_tables(output: Path, rows: Sequence[Mapping[str, object]]) -> None:
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
