"""What came out of the cells of an evidence table, and its rows: mean, spread, paired gains with their confidence."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence_arms import BASELINE, DEFAULT, TWIN, Cell, model_of, withheld
from paired_differences import paired, spread

from heterotune.report.run_record import read_run

POINTS = 100
MEASURES = {"mean": "", "worst_type": "worst_type_", "worst_client": "worst_client_"}
"""What is compared seed by seed -> how its gains' columns begin."""


@dataclass(frozen=True)
class Found:
    """What came out of a cell; accuracies in points of 100, on test rows balanced over the labels.

    Attributes:
        of_type: Model -> accuracy; where clients are alone, the mean over them.
        of_client: The accuracy that each client's own label shares would see.
        missing: Accuracy on the labels that a type's clients never saw, mean over types; None without type skew.
        loss: Mean over model types, nats per token.
        up_bytes: What a client sends in a round, mean over model types.
    """

    of_type: Mapping[str, float]
    of_client: Sequence[float]
    missing: float | None
    loss: float
    up_bytes: float

    @property
    def mean(self) -> float:
        """Over the types."""
        return statistics.fmean(self.of_type.values())

    @property
    def worst_type(self) -> float:
        return min(self.of_type.values())

    @property
    def worst_client(self) -> float:
        return min(self.of_client)


def read_found(cell: Cell) -> Found:
    """Return what came out of a run that has ended."""
    (record,) = read_run(cell.folder).strategies
    data = json.loads((cell.folder / "data.json").read_text(encoding="utf-8"))
    by = "own" if record.metrics.by("accuracy/own", "model_type") else "eval"  # of personal methods, clients' own
    accuracy = {name: curve.last[1] for name, curve in record.metrics.by(f"accuracy/{by}", "model_type").items()}
    losses = [curve.last[1] for curve in record.metrics.by(f"loss/{by}", "model_type").values()]
    of_label = _label_accuracies(cell.folder, "accuracy/label" if by == "eval" else "accuracy/own_label")
    by_model: dict[str, list[float]] = defaultdict(list)
    for name, value in accuracy.items():
        by_model[model_of(name)].append(POINTS * value)
    return Found(
        of_type={name: statistics.fmean(values) for name, values in by_model.items()},
        of_client=[_as_client(client, of_label[client["model_type"]]) for client in data["clients"]],
        missing=_missing(withheld(cell, data["label_names"]), of_label),
        loss=statistics.fmean(losses),
        up_bytes=statistics.fmean(each["up_bytes_per_client_round"] for each in record.summary["model_types"].values()),
    )


def _label_accuracies(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """Return model type -> label -> accuracy after the last round, in points."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["name"] == name:
                found[entry["model_type"]][entry["label"]] = POINTS * entry["value"]
    return found


def _as_client(client: Mapping, of_label: Mapping[str, float]) -> float:
    """Return the accuracy under a client's own shares of the labels."""
    num_rows = sum(client["labels"].values())
    return sum(count * of_label[label] for label, count in client["labels"].items()) / num_rows


def _missing(never: Mapping[str, Sequence[str]], of_label: Mapping[str, Mapping[str, float]]) -> float | None:
    if not never:
        return None
    return statistics.fmean(
        accuracies[label] for name, accuracies in of_label.items() for label in never[model_of(name)]
    )


def table_rows(found: Mapping[Cell, Found]) -> list[dict[str, object]]:
    """Return one row for each task, setting, fleet and arm, from the cells that are done."""
    by_kind: dict[tuple[str, str, str], dict[str, dict[int, Found]]] = defaultdict(lambda: defaultdict(dict))
    for cell, one in found.items():
        by_kind[cell.task, cell.setting, cell.fleet][cell.arm][cell.seed] = one
    return [
        {"task": task, "setting": setting, "fleet": fleet, "arm": arm, "seeds": len(mine), **_row(mine, arms)}
        for (task, setting, fleet), arms in by_kind.items()
        for arm, mine in arms.items()
    ]


def _row(mine: Mapping[int, Found], arms: Mapping[str, Mapping[int, Found]]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name in MEASURES:
        mean, deviation = spread([getattr(one, name) for one in mine.values()])
        row |= {f"{name}_accuracy": _shown(mean), f"{name}_accuracy_std": _shown(deviation)}
    missing = [one.missing for one in mine.values() if one.missing is not None]
    row["withheld_labels_accuracy"] = _shown(statistics.fmean(missing)) if missing else ""
    row["loss"] = _shown(statistics.fmean(one.loss for one in mine.values()), 4)
    for other in (TWIN, DEFAULT, BASELINE):
        theirs = arms.get(other, {})
        row[f"pairs_with_{other}"] = len(mine.keys() & theirs.keys())
        for name, prefix in MEASURES.items():
            values = ({seed: getattr(one, name) for seed, one in each.items()} for each in (mine, theirs))
            gain, half = paired(*values)
            row |= {f"{prefix}gain_over_{other}": _shown(gain), f"{prefix}gain_over_{other}_ci95": _shown(half)}
        name, gain, half = worst_gain(mine, theirs)
        row |= {f"least_gain_of_a_type_over_{other}": _shown(gain), f"least_gain_over_{other}_ci95": _shown(half)}
        row[f"least_gain_over_{other}_type"] = name
    row["up_bytes"] = round(statistics.fmean(one.up_bytes for one in mine.values()))
    row["types"] = " ".join(
        f"{name}={_shown(statistics.fmean(one.of_type[name] for one in mine.values()))}"
        for name in next(iter(mine.values())).of_type
    )
    return row


def worst_gain(mine: Mapping[int, Found], theirs: Mapping[int, Found]) -> tuple[str, float, float]:
    """Return the model type that gains least, its mean gain over the seeds, and half its confidence interval."""
    if not mine.keys() & theirs.keys():
        return "", math.nan, math.nan
    gains = {
        name: paired(
            {seed: one.of_type[name] for seed, one in mine.items()},
            {seed: one.of_type[name] for seed, one in theirs.items()},
        )
        for name in next(iter(mine.values())).of_type
    }
    name = min(gains, key=lambda each: gains[each][0])
    return name, *gains[name]


def _shown(value: float, digits: int = 2) -> object:
    """Return a figure rounded, "" for none."""
    return "" if math.isnan(value) else round(value, digits)
