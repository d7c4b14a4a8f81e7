"""What methods share whose model types hold parts of common tensors: the average over whoever covers an element."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from heterotune.adapters.layout import TensorSpec
from heterotune.aggregation.coverage import Covered, Part, coverage_mean
from heterotune.strategies.client_factors import places_in_common
from heterotune.strategies.strategy import Combined, ServerRound, TypeUpdate, holders


def combine_covered(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Add to every element the weighted mean update of the clients that hold it; what nobody holds stays."""
    change: dict[str, Tensor] = {}
    found: list[Covered] = []
    for key in sorted({key for update in updates for key in update.mean}):
        parts = [
            Part(
                places_in_common(spec_of(server, update.model_type, key), server.round_number),
                update.mean[key],
                update.weight,
                update.num_clients,
            )
            for update in holders(updates, key)
        ]
        covered = coverage_mean(parts, server.tensors[key].num_elements)
        change[key] = covered.mean_F
        found.append(covered)
    return Combined(change, coverage_metrics(found))


def spec_of(server: ServerRound, model_type: str, key: str) -> TensorSpec:
    """Return what a model type holds of a common tensor."""
    return next(spec for spec in server.layouts[model_type].tensors if spec.key == key)


def coverage_metrics(found: Iterable[Covered]) -> list[dict[str, Any]]:
    """Return how well a round covered the tensors that it touched: the fewest clients of an element, and the share."""
    counts = [covered.clients_F for covered in found]
    num_elements, num_covered = sum(map(len, counts)), sum(int((count > 0).sum()) for count in counts)
    least = min(int(count.min()) for count in counts)
    return [
        {"name": "coverage/least_clients", "value": least, "unit": "clients"},
        {"name": "coverage/share", "value": num_covered / num_elements, "unit": "share"},
    ]
