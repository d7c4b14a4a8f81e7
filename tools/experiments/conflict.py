"""Does CMGA do what its formulas promise where model types disagree by construction? Writes docs/results/conflict.csv.

    python tools/experiments/conflict.py --out docs/results

Every form, with and without `cmga_rescale`, and on single clients, in every setting of `conflict_task.py`. No language
model is involved: this says what the aggregation does, not what it is worth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

from conflict_task import Outcome, Setting, run  # noqa: E402

from heterotune.config.heterotune_options import HeterotuneOptions  # noqa: E402

FLEETS = {  # clients of each type, and how it names classes
    "agree": ((4, 4), ("plain", "plain")),
    "opposed, equal rows": ((4, 4), ("plain", "opposed")),
    "opposed, 9 : 1 rows": ((9, 1), ("plain", "opposed")),
    "one of three opposed": ((4, 4, 2), ("plain", "plain", "opposed")),
    "three of their own, 8 : 1 : 1": ((8, 1, 1), ("drawn", "drawn", "drawn")),
}
ROUNDS = (5, 60)
STEPS = {"small": (1, 1.0), "large": (20, 2.0)}  # local steps, learning rate
FORMS = ("none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine")


def settings() -> Iterator[tuple[str, Setting]]:
    """Yield (kind of local training, setting)."""
    for (name, (clients, kinds)), rounds, (size, (steps, rate)) in product(FLEETS.items(), ROUNDS, STEPS.items()):
        yield size, Setting(name, clients, kinds, rounds, steps, rate)


def forms() -> Iterator[tuple[str, HeterotuneOptions]]:
    """Yield (name in the table, options)."""
    for form in FORMS:
        yield form, HeterotuneOptions(cmga=form)
        if form != "none":
            yield f"{form}, not rescaled", HeterotuneOptions(cmga=form, cmga_rescale=False)
        if form not in ("none", "gradvac"):
            yield f"{form}, clients", HeterotuneOptions(cmga=form, cmga_tasks="clients")


def row_of(size: str, setting: Setting, form: str, outcomes: list[Outcome]) -> dict[str, object]:
    """Return a row of the table: means over seeds."""

    def mean(values: Iterator[float]) -> str:
        return f"{statistics.fmean(values):.3f}"

    return {
        "fleet": setting.name,
        "local_training": size,
        "rounds": setting.rounds,
        "cmga": form,
        "worst_type_loss": mean(max(each.losses) for each in outcomes),
        "mean_loss": mean(statistics.fmean(each.losses) for each in outcomes),
        "worst_type_accuracy": mean(min(each.accuracies) for each in outcomes),
        "mean_accuracy": mean(statistics.fmean(each.accuracies) for each in outcomes),
        "share_of_rounds_that_hurt_a_type": mean(each.num_hurt / setting.rounds for each in outcomes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the CSV goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    from tables import write_table

    torch.set_num_threads(1)
    rows = []
    for size, setting in settings():
        for form, how in forms():
            outcomes = [run(setting, how, seed) for seed in options.seeds]
            rows.append(row_of(size, setting, form, outcomes))
        print(f"{setting.name}, {size} steps, {setting.rounds} rounds: done", flush=True)
    note = (
        f"means over seeds {options.seeds}; small = 1 local step at rate 1, large = 20 at rate 2; see conflict_task.py"
    )
    write_table(options.out / "conflict.csv", rows, [note])


if __name__ == "__main__":
    main()
