"""HeteroTune: DeMA's table of scopes and CMGA at the server.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's formulas were not readable to us. The default
follows small experiments: siblings share their LoRA by original layer (scope "width"), every type shares the branch at
the head (scope "fleet"), whose input side is aligned on public text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from torch import Tensor

from heterotune.adapters.layout import TensorSpec
from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.cmga import CmgaDiagnostics, SharedGroup, align_groups
from heterotune.config.schema import HeterotuneOptions, RunConfig
from heterotune.strategies.strategy import (
    Combined,
    ServerRound,
    Strategy,
    TypeUpdate,
    fedavg,
    holders,
    type_weights,
    weighted_mean,
)


def make(config: RunConfig) -> Strategy:
    """Return a dense mixture of adapters: every branch is active for every token; scopes say who shares what."""
    combine = partial(combine_aligned, options=config.heterotune)
    return Strategy("heterotune", partial(adapter_layout, "heterotune", config), combine)


def combine_aligned(updates: Sequence[TypeUpdate], server: ServerRound, *, options: HeterotuneOptions) -> Combined:
    """Return the weighted mean of every tensor; where several model types share tensors, CMGA aligns them first."""
    if options.cmga == "none":
        return fedavg(updates, server)
    keys = sorted({key for update in updates for key in update.mean})
    change: dict[str, Tensor] = {key: weighted_mean(updates, key) for key in keys if len(holders(updates, key)) == 1}
    shared = [key for key in keys if key not in change]
    named = [
        (name, members, _shared_group(members, group))
        for name, members, group in _groups(updates, server.tensors, shared, options.cmga_granularity)
    ]
    aligned = align_groups([group for _, _, group in named], rescale=options.cmga_rescale, grams=server.grams)
    metrics: list[dict[str, Any]] = []
    for (name, members, _), (combined, seen) in zip(named, aligned, strict=True):
        change.update(combined)
        metrics += _diagnostics(name, members, seen)
    return Combined(change, metrics)


def _groups(
    updates: Sequence[TypeUpdate], tensors: Mapping[str, TensorSpec], keys: Sequence[str], granularity: str
) -> Iterator[tuple[str, list[TypeUpdate], list[str]]]:
    """Yield (name, model types that share it, keys): tensors that CMGA aligns as one vector."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in keys:
        spec = tensors[key]
        name = {
            "tensor": key,
            "depth_class": f"{spec.group}/{spec.depth_class}",
            "branch": spec.group,
            "model": "model",
        }[granularity]
        members = tuple(update.model_type for update in holders(updates, key))
        grouped[name, members].append(key)
    for (name, _), group in grouped.items():
        yield name, holders(updates, group[0]), group


def _shared_group(members: Sequence[TypeUpdate], keys: Sequence[str]) -> SharedGroup:
    """Return tensors that CMGA aligns as one vector."""
    return SharedGroup(
        updates=[{key: member.mean[key] for key in keys} for member in members],
        weight_M=type_weights(members),
        model_types=[member.model_type for member in members],
    )


def _diagnostics(group: str, members: Sequence[TypeUpdate], seen: CmgaDiagnostics) -> list[dict[str, Any]]:
    """Return what CMGA logs of a group."""
    numbers = {
        "cmga/conflicts": (seen.num_conflicts, "pairs"),
        "cmga/norm_ratio": (seen.norm_ratio, "ratio"),
        "cmga/min_alignment": (seen.min_alignment, "dot product"),
    }
    metrics = [{"name": name, "group": group, "value": value, "unit": unit} for name, (value, unit) in numbers.items()]
    names = [member.model_type for member in members]
    for j, i in combinations(range(len(names)), 2):
        pair = f"{names[j]}:{names[i]}"
        cosine = float(seen.cosine_MM[i, j])
        metrics.append({"name": "cmga/cosine", "group": group, "pair": pair, "value": cosine, "unit": "cosine"})
    for name, weight in zip(names, type_weights(members).tolist(), strict=True):
        entry = {"name": "cmga/weight", "group": group, "model_type": name, "value": weight, "unit": "share"}
        metrics.append(entry)
    return metrics
