"""Learning rates of the evidence tables, on the valid split and other seeds: the default, its twin and the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from evidence_arms import BASELINE, DEFAULT, TWIN, Cell

SEEDS = (101, 102)
FLEETS = ("widths", "siblings")
ARMS = (BASELINE, TWIN, DEFAULT)
SETTINGS = ("scarce", "plenty")


@dataclass(frozen=True)
class Rates:
    """Learning rates of a run: `lora` for LoRA, `head` for the head branch in units of it."""

    lora: float
    head: float


GRID = (Rates(3e-3, 1.0), Rates(6e-3, 1.0), Rates(1.5e-3, 1.0))


def cells_of(
    rates: Rates, out: Path, *, arms: Sequence[str] = (), settings: Sequence[str] = (), seeds: Sequence[int] = SEEDS
) -> list[Cell]:
    """Return the runs that try some rates, of these arms and settings only (none = all)."""
    folder = out / "tuning" / f"lora-{rates.lora:g}-head-{rates.head:g}"
    kinds = product(settings or SETTINGS, arms or ARMS, seeds, FLEETS)
    return [Cell("clinc150", setting, fleet, arm, seed, folder) for setting, arm, seed, fleet in kinds]


def rows_of(found: Mapping[Rates, Mapping[Cell, float]]) -> list[dict[str, object]]:
    """Return a row for each setting, arm and pair of rates, the best of an arm first.

    Args:
        found: Rates -> cell -> accuracy in points, mean over the model types.
    """
    rows = []
    for setting, arm, rates in product(SETTINGS, ARMS, found):
        mine = {cell: value for cell, value in found[rates].items() if (cell.setting, cell.arm) == (setting, arm)}
        if not mine:
            continue
        of_fleet = {fleet: [value for cell, value in mine.items() if cell.fleet == fleet] for fleet in FLEETS}
        means = {f"{fleet}_accuracy": round(statistics.fmean(each), 2) for fleet, each in of_fleet.items() if each}
        mean = round(statistics.fmean(means.values()), 2)
        row = {"setting": setting, "arm": arm, "lora": rates.lora, "head": rates.head, "mean_accuracy": mean}
        rows.append({**row, **means, "runs": len(mine)})
    return sorted(rows, key=lambda row: (SETTINGS.index(row["setting"]), ARMS.index(row["arm"]), -row["mean_accuracy"]))
