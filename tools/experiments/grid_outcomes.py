"""What came out of the runs of a grid of methods and seeds, and the table of it: means, spread, gains seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heterotune.config.methods import METHODS
from heterotune.report.run_record import StrategyRecord, read_run


@dataclass(frozen=True)
class Outcome:
    """What came out of a cell; losses in nats per token, accuracies as shares.

    Attributes:
        loss: By model type; empty if not known.
        accuracy: The same.
        own_loss: Mean over clients of the loss on each one's own held-out rows, by the model that it would use; these
            rows are the same for every method. None where clients have no such rows.
        own_accuracy: The same.
        up_bytes: Of a client in a round in which it sends, mean over model types.
        down_bytes: The same, down.
        seconds_per_round: Wall time.
    """

    loss: Mapping[str, float]
    accuracy: Mapping[str, float]
    own_loss: float | None
    own_accuracy: float | None
    up_bytes: float
    down_bytes: float
    seconds_per_round: float


def read_outcome(run_folder: Path) -> Outcome:
    """Return what came out of a run that has ended.

    Where clients have models of their own but no held-out rows of their own, nothing is known of what they learnt: the
    common adapter is what it was, and its loss would be a wrong answer.
    """
    (record,) = read_run(run_folder).strategies
    kind = "personal" if _last(record, "loss/personal") else "eval"
    known = kind == "personal" or _has_moved(record)
    types = record.summary["model_types"].values()
    return Outcome(
        _last(record, f"loss/{kind}") if known else {},
        _last(record, f"accuracy/{kind}") if known else {},
        _of_clients(record, "loss", kind),
        _of_clients(record, "accuracy", kind),
        statistics.fmean(of_type["up_bytes_per_client_round"] for of_type in types),
        statistics.fmean(of_type["down_bytes_per_client_round"] for of_type in types),
        record.summary["seconds_per_round"],
    )


def table(outcomes: Mapping[tuple[str, int], Outcome], baseline: str) -> list[dict[str, object]]:
    """Return one row for each method; outcomes by method and seed."""
    of_baseline = {seed: outcome for (method, seed), outcome in outcomes.items() if method == baseline}
    rows = []
    for method in dict.fromkeys(name for name, _ in outcomes):
        mine = {seed: outcome for (name, seed), outcome in outcomes.items() if name == method}
        gains = [gain(one, of_baseline[seed]) for seed, one in mine.items() if seed in of_baseline and one.loss]
        found, known = list(mine.values()), [one for one in mine.values() if one.loss]
        row: dict[str, object] = {"method": method, "form": METHODS[method].form, "seeds": len(mine)}
        row |= _spread("loss", [statistics.fmean(one.loss.values()) for one in known])
        row |= _spread("worst_type_loss", [max(one.loss.values()) for one in known])
        row |= _spread("accuracy", [statistics.fmean(one.accuracy.values()) for one in found if one.accuracy])
        row |= _spread("own_rows_loss", [one.own_loss for one in known if one.own_loss is not None])
        row |= _spread(f"gain_over_{baseline}", gains)
        for name in ("up_bytes", "down_bytes", "seconds_per_round"):
            row[name] = round(statistics.fmean(getattr(one, name) for one in found), 3)
        rows.append(row)
    return rows


def gain(outcome: Outcome, baseline: Outcome) -> float:
    """Return what one run has over another: points of accuracy if both have one, else nats per token of loss.

    On the same rows, clients' own, where there are such; else on what each was measured on.
    """
    if outcome.own_accuracy is not None and baseline.own_accuracy is not None:
        return 100 * (outcome.own_accuracy - baseline.own_accuracy)
    if outcome.accuracy and baseline.accuracy:
        return 100 * (statistics.fmean(outcome.accuracy.values()) - statistics.fmean(baseline.accuracy.values()))
    if outcome.own_loss is not None and baseline.own_loss is not None:
        return baseline.own_loss - outcome.own_loss
    return statistics.fmean(baseline.loss.values()) - statistics.fmean(outcome.loss.values())


def _of_clients(record: StrategyRecord, metric: str, kind: str) -> float | None:
    """Return the mean over clients of what each has on its own held-out rows, None if no client has any."""
    name = f"{metric}/{'personal_client' if kind == 'personal' else 'client'}"
    found = [curve.last[1] for _, curve in record.metrics.keyed(name, "client")]
    return statistics.fmean(found) if found else None


def _spread(name: str, values: Sequence[float]) -> dict[str, object]:
    """Return mean and sample standard deviation as two columns; empty where there is nothing."""
    mean = round(statistics.fmean(values), 5) if values else ""
    return {name: mean, f"{name}_std": round(statistics.stdev(values), 5) if len(values) > 1 else ""}


def _last(record: StrategyRecord, name: str) -> dict[str, float]:
    """Return model type -> the last value of a metric."""
    return {model_type: curve.last[1] for model_type, curve in record.metrics.by(name, "model_type").items()}


def _has_moved(record: StrategyRecord) -> bool:
    """Whether any model type's common adapter is another than before round 1."""
    curves = record.metrics.by("loss/eval", "model_type").values()
    return any(curve.first[1] != curve.last[1] for curve in curves)
