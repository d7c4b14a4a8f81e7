"""HeteroTune: DeMA's table of scopes and CMGA at the server.

Our reconstruction from the abstract of arXiv:2411.16796v2; the paper's formulas were not readable to us. The default
follows small experiments: siblings share their LoRA by original layer (scope "width"). Who shares the branch at the
head, whose input side is aligned on public text, the run's data decides (config/heterotune_options.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from heterotune.adapters.layout import TensorSpec
from heterotune.adapters.tables import adapter_layout
from heterotune.aggregation.cmga import SharedGroup, align_groups
from heterotune.aggregation.directions import (
    Form,
    agreeing,
    aligned,
    common_descent,
    conflict_averse,
    projected,
    vaccinated,
)
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.schema import RunConfig
from heterotune.strategies.cmga_metrics import group_metrics
from heterotune.strategies.cmga_tasks import SomeKeys, client_tasks
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
    """Return the weighted mean of every tensor; where several tasks share tensors, CMGA aligns their updates first.

    Tasks are model types or, if the options say so, single clients.
    """
    if options.cmga == "none":
        return fedavg(updates, server)
    tasks = updates if options.cmga_tasks == "types" else client_tasks(updates, server.layouts)
    keys = sorted({key for update in updates for key in update.mean})
    change: dict[str, Tensor] = {key: weighted_mean(tasks, key) for key in keys if len(holders(tasks, key)) == 1}
    shared = [key for key in keys if key not in change]
    named = [
        (name, members, _shared_group(name, members, group, server.state))
        for name, members, group in _groups(tasks, server.tensors, shared, options.cmga_granularity)
    ]
    results = align_groups(
        [group for _, _, group in named], rescale=options.cmga_rescale, grams=server.grams, form=_form(options)
    )
    metrics: list[dict[str, Any]] = []
    state = dict(server.state)
    for (name, members, _), (combined, seen) in zip(named, results, strict=True):
        change.update(combined)
        metrics += group_metrics(name, members, seen)
        if seen.targets_MM is not None:
            state[_state_name(name, members)] = seen.targets_MM
    return Combined(change, metrics, state)


def _form(options: HeterotuneOptions) -> Form:
    """Return what the options name."""
    forms: dict[str, Form] = {
        "project": projected,
        "cagrad": partial(conflict_averse, radius=options.cmga_cagrad_c),
        "mgda": common_descent,
        "gradvac": partial(vaccinated, beta=options.cmga_gradvac_beta),
        "aligned_mtl": aligned,
        "cosine": partial(agreeing, power=options.cmga_cosine_power),
    }
    return forms[options.cmga]


def _groups(
    tasks: Sequence[TypeUpdate], tensors: Mapping[str, TensorSpec], keys: Sequence[str], granularity: str
) -> Iterator[tuple[str, list[TypeUpdate], list[str]]]:
    """Yield (name, tasks that share it, keys): tensors that CMGA aligns as one vector."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in keys:
        spec = tensors[key]
        name = {
            "tensor": key,
            "depth_class": f"{spec.group}/{spec.depth_class}",
            "branch": spec.group,
            "model": "model",
        }[granularity]
        members = tuple(task.model_type for task in holders(tasks, key))
        grouped[name, members].append(key)
    for (name, _), group in grouped.items():
        yield name, holders(tasks, group[0]), group


def _shared_group(
    name: str, members: Sequence[TypeUpdate], keys: Sequence[str], state: Mapping[str, Tensor]
) -> SharedGroup:
    """Return tensors that CMGA aligns as one vector."""
    return SharedGroup(
        updates=[SomeKeys(member.mean, tuple(keys)) for member in members],
        weight_M=type_weights(members),
        model_types=[member.model_type for member in members],
        targets_MM=state.get(_state_name(name, members)),
    )


def _state_name(group: str, members: Sequence[TypeUpdate]) -> str:
    """Return where a group's targets are kept: for each set of model types that meets."""
    return f"cmga/{group}/{'+'.join(member.model_type for member in members)}"
