"""Runs what one evidence table needs and writes it: does sharing between unlike models help, when, and by how much.

    python tools/experiments/evidence.py --table siblings --data DATA --family FAMILY --out OUT --jobs 2

DATA holds intent/CLINC150, intent/BANKING77, dolly and tinyshakespeare (see evidence_tasks.py); FAMILY the models s, m,
l, l-4, l-3 of one tokenizer. What is done is not done again, and a run that stopped goes on, so the same command brings
a table to its end; it is written each time from the cells that are done. OUT/asked keeps what each run was asked for:
other settings want another OUT. Tables: main, scarce and skew (widths), siblings (all three settings), single (one
model: the sanity bound), ablation, cmga, forms (of transfer between widths), other (data sets), rounds (fewer of them,
as long or with more steps each), tuning (for --rates).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

import evidence_arms  # noqa: E402
import evidence_tuning  # noqa: E402
from evidence_arms import TABLES, TWIN, Cell, cells_of, config_of  # noqa: E402
from evidence_plot import gains_plot  # noqa: E402
from evidence_rows import read_found, table_rows  # noqa: E402
from evidence_tasks import prepare  # noqa: E402
from forked_runs import import_engine, run_forked  # noqa: E402
from grid_cells import check_asked, commits_text, is_done, work_of  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from heterotune.config.schema import RunConfig  # noqa: E402
from heterotune.errors import HeterotuneError  # noqa: E402
from heterotune.report.plots.plot import render  # noqa: E402

NOTES = (
    "accuracy in points on test rows balanced over the labels, by likelihood of the labels' words; mean over seeds.",
    "worst_client: a client's accuracy weighs its type's accuracy of each label by the client's own share of it.",
    "gain: seed by seed, in points; ci95: half the width of Student's t interval. within_type: heterotune with all",
    "tensors at scope type. Other methods train about as many parameters as that, by their LoRA rank; forms and",
    "ablations of heterotune train what their options say. Public text: unlabelled questions of the task.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the table. Returns the process's exit code."""
    options = _parse(arguments)
    rates = json.loads(options.rates)
    try:
        if options.table == "tuning":
            return tune(options)
        cells = cells_of(options.table, options.seeds, options.out)
        some = {"arms": options.arms, "settings": options.settings}
        chosen = cells_of(options.table, options.seeds, options.out, **some) if options.jobs else []
        wanted = [cell for cell in cells if cell in chosen or cell.asked.exists()]
        configs = configs_of(wanted, options.data, options.family, rates)
        check_asked(configs)
        run_missing({cell: configs[cell] for cell in chosen}, options.jobs)
        done = [cell for cell in cells if is_done(cell)]
        # Another command may have brought some to their end meanwhile.
        check_asked(configs_of([cell for cell in done if cell not in configs], options.data, options.family, rates))
        if done:
            write(options, {cell: read_found(cell) for cell in done}, rates)
    except HeterotuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{len(done)} of {len(cells)} runs are done")
    return 0 if len(done) == len(cells) else 1


def tune(options: argparse.Namespace) -> int:
    """Try learning rates on the valid split, and write what came out, the best first."""
    from tables import write_table

    configs: dict[Cell, RunConfig] = {}
    cells_of_rates = {}
    chosen = {"arms": options.arms, "settings": options.settings}
    for rates in evidence_tuning.GRID:
        cells_of_rates[rates] = evidence_tuning.cells_of(rates, options.out)
        cells = evidence_tuning.cells_of(rates, options.out, **chosen) if options.jobs else []
        configs |= configs_of(cells, options.data, options.family, asdict(rates), part="valid")
    check_asked(configs)
    run_missing(configs, options.jobs)
    found = {
        rates: {cell: read_found(cell).mean for cell in cells if is_done(cell)}
        for rates, cells in cells_of_rates.items()
    }
    rows = evidence_tuning.rows_of(found)
    write_table(options.results / "evidence_tuning.csv", rows, evidence_tuning.__doc__.splitlines())
    print("\n".join(map(str, rows)))
    return 0


def configs_of(
    cells: Sequence[Cell], data: Path, family: Path, rates: Mapping[str, float], *, part: str = "test"
) -> dict[Cell, RunConfig]:
    """Return the run of every cell, its rows written."""
    tokenizer = Tokenizer.from_file(str(family / "l" / "tokenizer.json"))
    configs = {}
    for cell in cells:
        task = prepare(
            cell.task,
            data,
            tokenizer,
            cell.out,
            seed=cell.seed,
            num_rows=cell.num_rows,
            num_test=evidence_arms.NUM_TEST,
            part=part,
        )
        configs[cell] = config_of(cell, task, family, rates)
    return configs


def run_missing(configs: Mapping[Cell, RunConfig], num_jobs: int) -> None:
    """Run what is not done in forked children, so many at a time; a run that fails is told and left out."""
    import_engine()
    left = [(cell, config) for cell, config in configs.items() if not is_done(cell)]
    started = time.perf_counter()

    def tell(cell: Cell, code: int, seconds: float) -> None:
        how = f"{seconds:.1f} s" if code == 0 else f"exit code {code}: {cell.folder}"
        print(f"{time.perf_counter() - started:7.0f} s  {cell.name} seed {cell.seed}: {how}", flush=True)

    run_forked(((cell, work_of(cell, config)) for cell, config in left), num_jobs, tell)


def write(options: argparse.Namespace, found: Mapping, rates: Mapping[str, float]) -> None:
    """Write the table as CSV and show what matters of it."""
    from tables import write_table

    rows = table_rows(found)
    settings = {row["setting"]: asdict(evidence_arms.SETTINGS[str(row["setting"])]) for row in rows}
    local = json.dumps({**evidence_arms.LOCAL, "learning rates": rates})
    facts = [f"local: {local}; settings (rows of a client in the mean): {json.dumps(settings)}"]
    facts += [f"runs begun at commits: {commits_text(found)}"]
    write_table(options.results / f"evidence_{options.table}.csv", rows, [*facts, *NOTES])
    plot = gains_plot(options.table, rows)
    if plot is not None:
        (options.results / f"evidence_{options.table}.png").write_bytes(render(plot, png=True).png)
    for row in rows:
        kind = f"{row['task']} {row['setting']} {row['fleet']}"
        twin = f"{row[f'gain_over_{TWIN}']} ± {row[f'gain_over_{TWIN}_ci95']}"
        base = f"{row['gain_over_fedavg_lora']} ± {row['gain_over_fedavg_lora_ci95']}"
        accuracy = f"{row['mean_accuracy']} ± {row['mean_accuracy_std']}"
        print(f"{kind:30} {row['arm']:18} {row['seeds']} {accuracy:16} twin {twin:16} fedavg {base:16} {row['types']}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, choices=[*sorted(TABLES), "tuning"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="runs and prepared rows")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "docs" / "results", help="where the CSV goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each; 0 = only write the table")
    parser.add_argument("--arms", nargs="+", default=[], choices=sorted(evidence_arms.ALL_ARMS), help="run these only")
    parser.add_argument(
        "--settings", nargs="+", default=[], choices=sorted(evidence_arms.SETTINGS), help="run these only"
    )
    parser.add_argument("--rates", default='{"lora": 0.003, "head": 1.0}', help="learning rates as JSON")
    options = parser.parse_args(arguments)
    for name in ("data", "family", "out", "results"):
        setattr(options, name, getattr(options, name).absolute())
    return options


if __name__ == "__main__":
    raise SystemExit(main())
