"""The arithmetic of the headline experiment: from run folders to rows of its tables. Reads files only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

FULL, PLAIN = "fedavg_full", "plain PyTorch, one client"
FLEET = "all"
KINDS = ("host_resident", "device_allocated", "device_reserved")

Row = dict[str, Any]


@dataclass(frozen=True)
class MethodRun:
    """A finished run of one method.

    Attributes:
        method: Its strategy.
        seed: The run's seed.
        folder: Its run folder.
    """

    method: str
    seed: int
    folder: Path

    @cached_property
    def ledger(self) -> list[Row]:
        """Every message."""
        return _lines(self.folder / "ledger.jsonl")

    @cached_property
    def losses(self) -> dict[str, dict[int, float]]:
        """Model type -> round -> held-out loss."""
        found: dict[str, dict[int, float]] = {}
        for line in _lines(self.folder / "metrics.jsonl"):
            if line["name"] == "loss/eval" and "model_type" in line:  # without, the mean over the types
                found.setdefault(line["model_type"], {})[line["round"]] = line["value"]
        return found

    @cached_property
    def fleet_losses(self) -> dict[int, float]:
        """Round -> mean of the model types' held-out losses."""
        rounds = next(iter(self.losses.values()))
        return {number: mean(by_round[number] for by_round in self.losses.values()) for number in rounds}

    def message_bytes(self, model_type: str = FLEET) -> dict[str, float]:
        """Return the mean bytes of a client of a type: "up" and "down" in a round that it takes part in, "down_once".

        What clients download and never send is frozen, and travels when a client first takes part.
        """
        lines = [line for line in self.ledger if model_type in (FLEET, line["model_type"])]
        trained = {line["group"] for line in lines if line["direction"] == "up"}
        turns = {(line["round"], line["client"]) for line in lines}
        clients = {line["client"] for line in lines}
        found = {"up": 0.0, "down": 0.0, "down_once": 0.0}
        for line in lines:
            is_once = line["group"] not in trained
            found["down_once" if is_once else line["direction"]] += line["bytes"] / len(clients if is_once else turns)
        return found

    def bytes_until(self, last_round: int) -> float:
        """Return the bytes, both ways, of one place in the cohort from round 1 to a round."""
        lines = [line for line in self.ledger if line["round"] <= last_round]
        turns = {(line["round"], line["client"]) for line in lines}
        return sum(line["bytes"] for line in lines) * last_round / len(turns) if turns else 0.0

    def first_round_at(self, target_loss: float) -> int | None:
        """Return the first round whose held-out loss, mean over model types, is at most the target."""
        return next((number for number, loss in self.fleet_losses.items() if number > 0 and loss <= target_loss), None)

    def peak_bytes(self) -> dict[str, dict[str, int]]:
        """Return kind -> {"train", "all"} -> the peak of the rank that takes most, in training and over all phases."""
        peaks: dict[str, dict[str, int]] = {}
        for line in _lines(self.folder / "memory.jsonl"):
            if line["kind"] in KINDS:
                mine = peaks.setdefault(line["kind"], {"train": 0, "all": 0})
                for name in ("all", "train") if line["phase"] == "train" else ("all",):
                    mine[name] = max(mine[name], line["peak_bytes"])
        return peaks


def target_losses(runs: Iterable[MethodRun]) -> dict[int, float]:
    """Return seed -> the target: the best held-out loss, mean over model types, of the method whose best is worst."""
    best: dict[int, list[float]] = {}
    for run in runs:
        best.setdefault(run.seed, []).append(min(loss for number, loss in run.fleet_losses.items() if number > 0))
    return {seed: max(losses) for seed, losses in best.items()}


def communication_rows(runs: Sequence[MethodRun]) -> list[Row]:
    """Return bytes by method and model type, and to the target; means over seeds."""
    targets, rows = target_losses(runs), []
    for method, mine in _by_method(runs).items():
        for model_type in (FLEET, *mine[0].losses):
            by_seed = [run.message_bytes(model_type) for run in mine]
            row = {"method": method, "model_type": model_type}
            row |= {f"{kind}_bytes": round(mean(found[kind] for found in by_seed)) for kind in by_seed[0]}
            rows.append(row | (_to_target(mine, targets) if model_type == FLEET else _no_target()))
    return with_share_below(
        rows, ("model_type",), "below_full_percent", lambda row: row["up_bytes"] + row["down_bytes"]
    )


def _to_target(mine: Sequence[MethodRun], targets: Mapping[int, float]) -> Row:
    reached = [(run, run.first_round_at(targets[run.seed])) for run in mine]
    missed = [run.seed for run, number in reached if number is None]
    assert not missed, f"the target is what every method reaches, but seeds {missed} of {mine[0].method} do not"
    return {
        "target_loss": round(mean(targets[run.seed] for run in mine), 4),
        "rounds_to_target": round(mean(number for _, number in reached), 2),
        "bytes_to_target": round(mean(run.bytes_until(number) for run, number in reached)),
    }


def _no_target() -> Row:
    return {"target_loss": "", "rounds_to_target": "", "bytes_to_target": ""}


def quality_rows(runs: Sequence[MethodRun]) -> list[Row]:
    """Return the held-out loss and perplexity after the last round by method and model type, over seeds."""
    rows = []
    for method, mine in _by_method(runs).items():
        for model_type in mine[0].losses:
            before = [run.losses[model_type][0] for run in mine]
            after = [run.losses[model_type][max(run.losses[model_type])] for run in mine]
            rows.append(
                {
                    "method": method,
                    "model_type": model_type,
                    "seeds": len(mine),
                    "loss_before": round(mean(before), 4),
                    "loss_after": round(mean(after), 4),
                    "sd": round(stdev(after), 4) if len(after) > 1 else "",
                    "perplexity_after": round(math.exp(mean(after)), 2),
                }
            )
    return rows


def memory_rows(what: str, peaks: Mapping[str, Mapping[str, Mapping[str, int]]], runtime_bytes: int) -> list[Row]:
    """Return the peaks of a rank by method and kind, and how far they are below whole-model training.

    Args:
        what: The model or fleet.
        peaks: Method -> kind -> "train" and "all".
        runtime_bytes: Resident bytes of a process that has only loaded its libraries.
    """
    rows = []
    for method, by_kind in peaks.items():
        for kind, peak in by_kind.items():
            runtime = runtime_bytes if kind == "host_resident" else 0
            rows.append(
                {
                    "what": what,
                    "method": method,
                    "kind": kind,
                    "train_peak_bytes": peak["train"],
                    "peak_bytes": peak["all"],
                    "peak_less_runtime_bytes": peak["all"] - runtime,
                }
            )
    for column in ("peak_bytes", "peak_less_runtime_bytes"):
        for base, name in ((FULL, "full"), (PLAIN, "plain")):
            column_name = f"{column.removesuffix('_bytes')}_below_{name}_percent"
            rows = with_share_below(rows, ("what", "kind"), column_name, lambda row, c=column: row[c], base=base)
    return rows


def wire_rows(what: str, answers: Sequence[Row]) -> list[Row]:
    """Return the bytes of a client's first round at a model's shape, what travels once included."""
    rows = [{"what": what, **answer, "seconds": round(answer["seconds"], 1)} for answer in answers]
    every = with_share_below(rows, ("what",), "below_full_percent", round_bytes, digits=3)
    return with_share_below(every, ("what",), "first_round_below_full_percent", first_round_bytes, digits=3)


def round_bytes(row: Row) -> int:
    """Return a client's bytes, both ways, in any round after its first."""
    return row["up_bytes"] + row["down_bytes"]


def first_round_bytes(row: Row) -> int:
    """Return a client's bytes, both ways, in its first round."""
    return round_bytes(row) + row["down_once_bytes"]


def with_share_below(
    rows: Sequence[Row],
    same: Sequence[str],
    column: str,
    value: Callable[[Row], float],
    *,
    base: str = FULL,
    digits: int = 2,
) -> list[Row]:
    """Add a column: by how many percent a row's value is below that of the base method's row alike in `same`."""
    result = []
    for row in rows:
        bases = [other for other in rows if other["method"] == base and all(other[key] == row[key] for key in same)]
        share = round(100.0 * (1.0 - value(row) / value(bases[0])), digits) if bases and row["method"] != base else ""
        result.append({**row, column: share})
    return result


def _by_method(runs: Sequence[MethodRun]) -> dict[str, list[MethodRun]]:
    grouped: dict[str, list[MethodRun]] = {}
    for run in runs:
        grouped.setdefault(run.method, []).append(run)
    return grouped


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
