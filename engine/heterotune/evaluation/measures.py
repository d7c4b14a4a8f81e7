"""Measures of held-out quality, and the metrics that they become: a model type's, its clients', worst and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EVAL, PERSONAL, OWN = "eval", "personal", "own"
LOSS, ACCURACY, EXACT_MATCH = "loss", "accuracy", "exact_match"
UNITS = {LOSS: "nats/token", ACCURACY: "share", EXACT_MATCH: "share"}
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class Measure:
    """One figure of a model type.

    Attributes:
        name: "loss", "accuracy" or "exact_match".
        by: "eval" for the global adapter, "personal" for each client's own one on its own rows, "own" on all rows.
        value: Over all rows that are asked of.
        of_client: The same on each of the type's own clients' rows, by client id.
        of_label: The same on the rows of each class; empty where it was not asked for.
    """

    name: str
    by: str
    value: float
    of_client: Mapping[int, float] = field(default_factory=dict)
    of_label: Mapping[str, float] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Its name among the metrics, e.g. "loss/eval"."""
        return f"{self.name}/{self.by}"


def perplexity(loss: float) -> float:
    """Return exp(loss), kept finite."""
    return math.exp(min(loss, _LARGEST_EXPONENT))


def spread(values: Collection[float]) -> float:
    """Return the standard deviation of all there is; no number if a value is none or infinite."""
    mean = statistics.fmean(values)
    return math.sqrt(statistics.fmean((value - mean) ** 2 for value in values))


def type_metrics(model_type: str, measures: Sequence[Measure]) -> Iterator[dict[str, Any]]:
    """Yield what is written of a model type: every measure, and how it differs between clients and classes."""
    for measure in measures:
        yield from _figure(measure.full_name, measure.value, {"model_type": model_type})
    for measure in measures:
        yield from _client_metrics(model_type, measure)
        for label, value in sorted(measure.of_label.items()):
            of_label = {"model_type": model_type, "label": label, "value": value, "unit": UNITS[measure.name]}
            yield {"name": f"{_beginning(measure)}label", **of_label}


def fleet_metrics(of_type: Mapping[str, Sequence[Measure]]) -> Iterator[dict[str, Any]]:
    """Yield the mean of every measure over the model types that have it; these metrics name no model type."""
    for name in dict.fromkeys(measure.full_name for measures in of_type.values() for measure in measures):
        values = [m.value for measures in of_type.values() for m in measures if m.full_name == name]
        yield from _figure(name, statistics.fmean(values), {})


def _figure(name: str, value: float, labels: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a figure, and for a loss the perplexity."""
    kind, _, by = name.partition("/")
    yield {"name": name, **labels, "value": value, "unit": UNITS[kind]}
    if kind == LOSS:
        yield {"name": f"perplexity/{by}", **labels, "value": perplexity(value), "unit": "1"}


def _client_metrics(model_type: str, measure: Measure) -> Iterator[dict[str, Any]]:
    """Yield each client's figure, the worst of them and their standard deviation; nothing without clients."""
    if not measure.of_client:
        return
    start = _beginning(measure)
    labels, unit = {"model_type": model_type}, UNITS[measure.name]
    for client, value in sorted(measure.of_client.items()):
        yield {"name": f"{start}client", **labels, "client": client, "value": value, "unit": unit}
    pick = max if measure.name == LOSS else min
    worst = pick(measure.of_client.values())
    yield {"name": f"{start}worst_client", **labels, "value": worst, "unit": unit}
    yield {"name": f"{start}client_spread", **labels, "value": spread(measure.of_client.values()), "unit": unit}


def _beginning(measure: Measure) -> str:
    """Return how the names of a measure's parts begin."""
    return f"{measure.name}/" + ("" if measure.by == EVAL else f"{measure.by}_")


def mean_of_clients(by_client: Mapping[int, Sequence[Measure]]) -> list[Measure]:
    """Return what clients' own adapters reach on the same rows: the mean over the clients, and each client's.

    Args:
        by_client: The measures of each client's adapter, alike for all; they are of the kind "eval".
    """
    found = []
    for measures in zip(*by_client.values(), strict=True):
        of_label = {
            label: statistics.fmean(measure.of_label[label] for measure in measures) for label in measures[0].of_label
        }
        of_client = dict(zip(by_client, (measure.value for measure in measures), strict=True))
        found.append(Measure(measures[0].name, OWN, statistics.fmean(of_client.values()), of_client, of_label))
    return found
