"""What CMGA logs of a round and group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from heterotune.aggregation.cmga import CmgaDiagnostics
from heterotune.strategies.strategy import TypeUpdate, type_weights

MOST_TASKS = 8
"""Where more updates than these meet, pairs are too many to log, and their mean cosine stands for them."""


def group_metrics(group: str, members: Sequence[TypeUpdate], seen: CmgaDiagnostics) -> list[dict[str, Any]]:
    """Return what is logged of a group.

    `cmga/cosine_after` is between what became of two types' updates ("a:b") where the form changes updates (project,
    gradvac, aligned_mtl), and between a type's own update and the result ("a:result") where it only weighs them.
    """
    numbers = {
        "cmga/conflicts": (seen.num_conflicts, "pairs"),
        "cmga/norm_ratio": (seen.norm_ratio, "ratio"),
        "cmga/min_alignment": (seen.min_alignment, "dot product"),
    }
    metrics = [{"name": name, "group": group, "value": value, "unit": unit} for name, (value, unit) in numbers.items()]
    if len(members) > MOST_TASKS:
        return [*metrics, {"name": "cmga/mean_cosine", "group": group, "value": _mean_cosine(seen), "unit": "cosine"}]
    metrics += (entry | {"group": group} for entry in _pairs([member.model_type for member in members], seen))
    for member, weight in zip(members, type_weights(members).tolist(), strict=True):
        entry = {"name": "cmga/weight", "group": group, "model_type": member.model_type}
        metrics.append({**entry, "value": weight, "unit": "share"})
    return metrics


def _pairs(names: Sequence[str], seen: CmgaDiagnostics) -> Iterator[dict[str, Any]]:
    """Yield what is logged of every two types."""
    tables = {"cmga/cosine": (seen.cosine_MM, "cosine"), "cmga/magnitude_similarity": (seen.magnitude_MM, "ratio")}
    if seen.cosine_after.ndim == 2:
        tables["cmga/cosine_after"] = (seen.cosine_after, "cosine")
    for j, i in combinations(range(len(names)), 2):
        for name, (table, unit) in tables.items():
            yield {"name": name, "pair": f"{names[j]}:{names[i]}", "value": float(table[i, j]), "unit": unit}
    if seen.cosine_after.ndim == 1:
        for own, cosine in zip(names, seen.cosine_after.tolist(), strict=True):
            yield {"name": "cmga/cosine_after", "pair": f"{own}:result", "value": cosine, "unit": "cosine"}


def _mean_cosine(seen: CmgaDiagnostics) -> float:
    """Return the mean cosine over all pairs."""
    size = len(seen.cosine_MM)
    return float((seen.cosine_MM.sum() - seen.cosine_MM.diagonal().sum()) / (size * (size - 1)))
