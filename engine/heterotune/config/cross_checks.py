"""Checks that need more than one section of a run. Each returns its problems, so all can be told at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from heterotune.config.clock_checks import CLOCK_CHECKS
from heterotune.config.distillation_checks import DISTILLATION_CHECKS
from heterotune.config.field_types import LARGEST_FLEET
from heterotune.config.method_checks import METHOD_CHECKS
from heterotune.config.nearest import suggestion
from heterotune.config.protection_checks import PROTECTION_CHECKS
from heterotune.config.selection_checks import SELECTION_CHECKS

if TYPE_CHECKING:
    from heterotune.config.availability_options import AvailabilityOptions
    from heterotune.config.cohort_options import CohortConfig
    from heterotune.config.data_options import DataConfig
    from heterotune.config.device_options import DevicesConfig
    from heterotune.config.engine_options import ChunkConfig
    from heterotune.config.fleet_options import FleetEntry
    from heterotune.config.heterotune_options import HeterotuneOptions
    from heterotune.config.method_options import LocalConfig

_MOST_SUGGESTIONS = 20  # guessing what was meant takes time


def cross_field_problems(sections: Mapping[str, Any], *, begun: bool) -> list[str]:
    """Run every check whose sections are there.

    Args:
        sections: Valid sections and top-level values of a run by name; a section with problems of its own is left out.
        begun: Leave out what is only asked of a run before it begins.

    Returns:
        One line per problem; empty if all is well.
    """
    problems = []
    for check, needed in _CHECKS if begun else (*_CHECKS, *DISTILLATION_CHECKS):
        if all(name in sections for name in needed):
            problems += check(*(sections[name] for name in needed))
    return problems


def _unique_names(fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Names identify model types everywhere; upper and lower case do not count, because they become file names."""
    counts = Counter(entry.name.lower() for entry in fleet)
    repeated = [name for name, count in counts.items() if count > 1]
    return [f"fleet has {counts[name]} entries named {name}. Give each model type its own name." for name in repeated]


def _siblings(fleet: tuple[FleetEntry, ...]) -> list[str]:
    """A sibling names an entry that exists, is another one, and is no sibling itself."""
    by_name = {entry.name: entry for entry in fleet}
    problems = []
    for number, entry in enumerate(fleet):
        start, original = f"fleet.{number}.siblings_of = {entry.siblings_of}", by_name.get(entry.siblings_of or "")
        if entry.siblings_of is None:
            continue
        if len(problems) >= _MOST_SUGGESTIONS:
            break
        if original is None:
            problems.append(f"{start} is not in the fleet. {suggestion(entry.siblings_of, by_name)}")
        elif original.name == entry.name:
            problems.append(f"{start} is the entry itself. Name the model it was cut from, or leave the key out.")
        elif original.siblings_of is not None:
            text = f"{start} is itself a sibling of {original.siblings_of}"
            problems.append(f"{text}. Name the model that both were cut from.")
    return problems


def _layers(fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Only a sibling has an original whose layers can be numbered."""
    return [
        f"fleet.{number}.layers = {list(entry.layers)} needs siblings_of. Name the original, or drop layers."
        for number, entry in enumerate(fleet)
        if entry.layers is not None and entry.siblings_of is None
    ]


def _fleet_size(fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Every client has a place in memory, with or without data."""
    num_clients = sum(entry.clients for entry in fleet)
    if num_clients <= LARGEST_FLEET:
        return []
    return [f"fleet has {num_clients} clients in all, more than {LARGEST_FLEET}. Lower fleet.N.clients."]


def _cohort_size(cohort: CohortConfig, fleet: tuple[FleetEntry, ...]) -> list[str]:
    """A cohort is drawn without repetition."""
    num_clients = sum(entry.clients for entry in fleet)
    if cohort.clients is None or cohort.clients <= num_clients:
        return []
    start = f"cohort.clients = {cohort.clients} is more than the fleet's {num_clients} clients"
    return [f"{start}. Lower it, or add clients to fleet."]


def _compared(compare_with: tuple[str, ...], strategy: str) -> list[str]:
    """A comparison is with something else, and made once."""
    problems = []
    if strategy in compare_with:
        problems.append(f"compare_with contains strategy = {strategy} itself. Take it out of compare_with.")
    repeated = [name for name, count in Counter(compare_with).items() if count > 1]
    return problems + [f"compare_with names {name} more than once. Name it once." for name in repeated]


def _decay_of_differences(local: LocalConfig, strategy: str, compare_with: tuple[str, ...]) -> list[str]:
    """What clients of fedavg_full train is the difference to the frozen weights; decay would shrink that."""
    if not local.weight_decay or "fedavg_full" not in (strategy, *compare_with):
        return []
    text = (
        f"local.weight_decay = {local.weight_decay} would pull fedavg_full's weights to the pre-trained ones, not to 0"
    )
    return [f"{text}. Set it to 0, or leave fedavg_full out."]


_OWN_LOSS = ("fedavg_full", "depthfl")


def _logits_can_be_adjusted(
    local: LocalConfig, data: DataConfig, strategy: str, compare_with: tuple[str, ...]
) -> list[str]:
    """Logit adjustment acts where an answer begins, in the loss behind one frozen head."""
    if local.logit_adjustment is None:
        return []
    setting = f"local.logit_adjustment = {local.logit_adjustment:g}"
    problems = [
        f"{setting} does not go with strategy {name}, whose loss is its own. Set it to null, or leave {name} out."
        for name in (strategy, *compare_with)
        if name in _OWN_LOSS
    ]
    if data.loss == "all":
        problems.append(f"{setting} acts where an answer begins, and data.loss = all hides where. Set loss: response.")
    return problems


def _shared_ranks(
    fleet: tuple[FleetEntry, ...], options: HeterotuneOptions, strategy: str, compare_with: tuple[str, ...]
) -> list[str]:
    """Siblings that share LoRA branches hold tensors of one shape."""
    if options.lora_scope == "type" or "heterotune" not in (strategy, *compare_with):
        return []
    problems = []
    for original in fleet:
        group = [entry for entry in fleet if entry is original or entry.siblings_of == original.name]
        ranks = {entry.name: entry.adapter_rank_under(options) for entry in group}
        if len(group) > 1:
            problems += _group_problems(original.name, ranks, options.lora_scope)
    return problems


def _ranks_of_shared_layers(fleet: tuple[FleetEntry, ...], strategy: str, compare_with: tuple[str, ...]) -> list[str]:
    """Siblings whose layers meet in one tensor have one rank."""
    methods = [name for name in (strategy, *compare_with) if name in ("depthfl", "inclusivefl")]
    problems = []
    for original in fleet if methods else ():
        ranks = {e.name: e.adapter_rank for e in fleet if e is original or e.siblings_of == original.name}
        if len(set(ranks.values())) > 1:
            told = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
            text = f"fleet: adapter_rank differs among {original.name} and its siblings ({told})"
            problems.append(f"{text}, which share LoRA under {methods[0]}. Make them equal.")
    return problems


def _group_problems(original: str, ranks: dict[str, int], lora_scope: str) -> list[str]:
    """Problems of one group of siblings."""
    if len(set(ranks.values())) > 1:
        told = ", ".join(f"{name} {adapter_rank}" for name, adapter_rank in ranks.items())
        text = f"fleet: adapter_rank differs among {original} and its siblings ({told}), which share LoRA"
        return [f"{text} under heterotune.lora_scope = {lora_scope}. Make them equal, or set lora_scope: type."]
    if lora_scope == "split" and ranks[original] % 2:
        text = f"adapter_rank = {ranks[original]} of {original} and its siblings cannot be halved"
        return [f"fleet: {text} for heterotune.lora_scope = split. Make it even, or use another lora_scope."]
    return []


def _chunk_types(chunk: ChunkConfig, fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Chunk sizes are given for model types that exist."""
    names = {entry.name for entry in fleet}
    unknown = [name for name in chunk.of_type if name not in names][:_MOST_SUGGESTIONS]
    return [f"chunk.of_type.{name} is not in the fleet. {suggestion(name, names)}" for name in unknown]


def _devices(devices: DevicesConfig, fleet: tuple[FleetEntry, ...]) -> list[str]:
    """Where devices are assigned, every model type has some."""
    names = [entry.name for entry in fleet]
    unknown = [name for name in devices.assign if name not in names][:_MOST_SUGGESTIONS]
    problems = [f"devices.assign.{name} is not in the fleet. {suggestion(name, names)}" for name in unknown]
    bare = [name for name in names if name not in devices.assign] if devices.assign else []
    return problems + [
        f"devices.assign.{name} is missing. Give each model type of the fleet a profile." for name in bare
    ]


def _width_of_answers(heterotune: HeterotuneOptions) -> list[str]:
    """A basis narrower than the branch would waste rank; how many tokens labels have, the data decides."""
    rank, basis = heterotune.head_rank, heterotune.head_basis
    if heterotune.head_outputs != "vocabulary" or rank == "auto" or rank <= basis:
        return []
    text = f"head_basis = {basis} is less than head_rank = {rank}"
    return [f"heterotune: {text}, so part of the rank could do nothing. Raise head_basis, or lower head_rank."]


def _hours(availability: AvailabilityOptions, devices: DevicesConfig) -> list[str]:
    """Hours of devices are those of devices that clients have."""
    if availability.model != "devices" or devices.are_given:
        return []
    return ["availability.model = devices, and no client has a device. Add devices, or set another model."]


_CHECKS = (
    (_unique_names, ("fleet",)),
    (_siblings, ("fleet",)),
    (_layers, ("fleet",)),
    (_chunk_types, ("chunk", "fleet")),
    (_devices, ("devices", "fleet")),
    (_hours, ("availability", "devices")),
    (_fleet_size, ("fleet",)),
    (_cohort_size, ("cohort", "fleet")),
    (_compared, ("compare_with", "strategy")),
    (_decay_of_differences, ("local", "strategy", "compare_with")),
    (_shared_ranks, ("fleet", "heterotune", "strategy", "compare_with")),
    (_width_of_answers, ("heterotune",)),
    (_ranks_of_shared_layers, ("fleet", "strategy", "compare_with")),
    (_logits_can_be_adjusted, ("local", "data", "strategy", "compare_with")),
    *METHOD_CHECKS,
    *PROTECTION_CHECKS,
    *SELECTION_CHECKS,
    *CLOCK_CHECKS,
)
