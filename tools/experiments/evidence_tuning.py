"""Picks the learning rates of the evidence tables: one small sweep of the within-type twin, on the valid split."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence_arms import TWIN, Cell

SEEDS = (101, 102)
FLEETS = ("widths", "siblings")


@dataclass(frozen=True)
class Rates:
    """Learning rates of a run: `lora` for LoRA, `head` for the head branch in units of it."""

    lora: float
    head: float


GRID = (Rates(3e-3, 1.0), Rates(3e-3, 3.0), Rates(6e-3, 1.0), Rates(6e-3, 3.0), Rates(1e-2, 1.0))


def cells_of(rates: Rates, out: Path, seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """Return the runs that try some rates."""
    folder = out / "tuning" / f"lora-{rates.lora:g}-head-{rates.head:g}"
    return [Cell("clinc150", "scarce", fleet, TWIN, seed, folder) for seed in seeds for fleet in FLEETS]


def rows_of(found: Mapping[Rates, Mapping[Cell, float]]) -> list[dict[str, object]]:
    """Return a row for each pair of rates, the best first.

    Args:
        found: Rates -> cell -> accuracy in points, mean over the model types.
    """
    accuracies = {
        rates: {fleet: [value for cell, value in of_cell.items() if cell.fleet == fleet] for fleet in FLEETS}
        for rates, of_cell in found.items()
    }
    rows = [
        {
            "lora": rates.lora,
            "head": rates.head,
            "mean_accuracy": round(statistics.fmean(map(statistics.fmean, of_fleet.values())), 2),
            **{f"{fleet}_accuracy": round(statistics.fmean(values), 2) for fleet, values in of_fleet.items()},
            "runs": sum(map(len, of_fleet.values())),
        }
        for rates, of_fleet in accuracies.items()
    ]
    return sorted(rows, key=lambda row: -row["mean_accuracy"])
