"""All checks that need no rank: models, tokenizer, data. What is wrong is an error before anything starts.

It imports no torch: `heterotune run` calls it in the launching process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heterotune.adapters.dema import with_head_rank
from heterotune.adapters.peft_start import check_start, read_starts, start_sha256
from heterotune.adapters.tables import adapter_layout
from heterotune.config.protection_checks import cohort_problems
from heterotune.config.schema import RunConfig
from heterotune.data.clients_data import FederatedData, build_public_rows
from heterotune.data.fleet_tokenizers import load_fleet_tokenizers, rows_of_types
from heterotune.data.questions import label_tokens, picked_metrics
from heterotune.data.row_cache import federated_data
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import Rows
from heterotune.errors import ConfigError, DataError, ModelError
from heterotune.fleet.availability_trace import windows_sha256
from heterotune.fleet.clients import Population, cohort_counts, draws_of_types, enlist_clients
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.fleet.device_hours import DeviceHours, device_hours, hours_problems
from heterotune.fleet.device_trace import devices_sha256
from heterotune.fleet.devices import Devices, make_devices, with_used_profiles
from heterotune.fleet.misbehaviour import hostile_clients
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.model_checks import has_head, model_problems, tokenizer_problems
from heterotune.planning.device_memory import device_fits, device_problems
from heterotune.virtual_time.dispatch import dispatch_of


@dataclass(frozen=True)
class CheckedRun:
    """A run whose parts were found and fit together; nothing of it holds weights.

    Attributes:
        config: The run.
        model_types: The fleet.
        tokenizers: Each model type's.
        data_of_type: The data in each model type's tokens; see `rows_of_types`.
        population: Every client.
        label_tokens: The tokens of class names, where a head branch answers in these; else empty.
        public: The rows that alignment and distillation read; None if the run aligns nothing.
    """

    config: RunConfig
    model_types: tuple[ModelType, ...]
    tokenizers: tuple[TextTokenizer, ...]
    data_of_type: tuple[FederatedData, ...]
    population: Population
    label_tokens: tuple[int, ...] = ()
    public: Rows | None = None

    @property
    def tokenizer(self) -> TextTokenizer:
        """The first model type's tokenizer, which is everybody's where model types share anything."""
        return self.tokenizers[0]

    @property
    def data(self) -> FederatedData:
        """The data with held-out rows in the first model type's tokens; training rows are each in their own."""
        return self.data_of_type[0]


def check(config: RunConfig) -> CheckedRun:
    """Resolve models, tokenizer and data of a run.

    Raises:
        ModelError: If a model is missing, no LLaMA, or does not fit the fleet or the strategy.
        DataError: If the corpus cannot serve the fleet, or does not have what a metric asks of it, or the public text
            is missing or not what alignment and distillation read.
        ConfigError: If a round has too few clients for what is asked of them, or none of a model type, a device cannot
            hold what it trains, or a trace of availability is wrong.
        TooFewAvailable: If never as many clients are available as a round draws.
    """
    model_types = read_model_types(config.fleet)
    config = with_head_rank(config, model_types)
    problems = model_problems(config, model_types)
    tokenizers = load_fleet_tokenizers(model_types, config.data.tokenizer)
    problems += [] if problems else tokenizer_problems(config, model_types, [each.digest for each in tokenizers])
    if problems:
        raise ModelError("\n".join(problems))
    config = with_known_starts(config, model_types)
    config = with_known_devices(config, model_types)
    data_of_type = load_data(config, model_types, tokenizers)
    config = with_counted_classes(config, data_of_type[0].label_names)
    check_logit_adjustment(config, data_of_type)
    config, answers = with_answers(config, data_of_type[0], tokenizers[0])
    public = public_rows(config, tokenizers[0])
    population = enlist_clients(model_types, data_of_type[0].train.num_rows)
    check_every_type_trains(config, model_types, population)
    config = with_known_windows(config, population, device_hours(config, model_types))
    check_protection(config, model_types, population)
    config = with_picked_noise(config, model_types, population)
    metrics = picked_metrics(config.evaluate.metrics, data_of_type[0])
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"metrics": metrics})})
    return CheckedRun(config, model_types, tokenizers, data_of_type, population, answers, public)


def with_answers(config: RunConfig, data: FederatedData, tokenizer: TextTokenizer) -> tuple[RunConfig, tuple[int, ...]]:
    """Return the run with a head basis of as many tokens as class names have, if it answers in these; and them."""
    if not has_head(config) or config.heterotune.head_outputs != "labels":
        return config, ()
    tokens = label_tokens(data, tokenizer, config.data)
    options = config.heterotune.model_copy(update={"head_basis": len(tokens)})
    return config.model_copy(update={"heterotune": options}), tokens


def load_data(
    config: RunConfig, model_types: Sequence[ModelType], tokenizers: Sequence[TextTokenizer]
) -> tuple[FederatedData, ...]:
    """Load, divide and tokenise a run's data for each model type; see `rows_of_types`.

    Raises:
        DataError: If the corpus cannot serve the fleet.
    """
    type_of_client = [model_type.name for model_type in model_types for _ in range(model_type.num_clients)]
    return rows_of_types(
        model_types,
        tokenizers,
        lambda each: federated_data(config.data, config.evaluate, each, type_of_client, run_seed=config.seed),
    )


def with_known_starts(config: RunConfig, model_types: Sequence[ModelType]) -> RunConfig:
    """Return the run with the digests of the adapters that its fleet starts from, after a check that they fit.

    Where a digest is known already, nothing is looked at: a run that goes on does not need the files any more, and one
    that begins compares them when it reads them.

    Raises:
        ModelError: With every problem, and what to set.
    """
    fleet, problems, num_new = list(config.fleet), [], 0
    for number, (entry, model_type) in enumerate(zip(config.fleet, model_types, strict=True)):
        if entry.adapter is None or entry.adapter_sha256 is not None:
            continue
        for method in (config.strategy, *config.compare_with):
            layout = adapter_layout(method, config, model_type, model_types)
            problems += check_start(entry, f"fleet.{number}", layout, method)
        if not problems:
            fleet[number] = entry.model_copy(update={"adapter_sha256": start_sha256(entry)})
            num_new += 1
    if problems:
        raise ModelError("\n".join(dict.fromkeys(problems)))
    config = config.model_copy(update={"fleet": tuple(fleet)})
    if num_new > 1:  # siblings may have been given different values of one tensor; comparing them takes torch
        for method in (config.strategy, *config.compare_with):
            read_starts(fleet, [adapter_layout(method, config, each, model_types) for each in model_types], method)
    return config


def with_known_devices(config: RunConfig, model_types: tuple[ModelType, ...]) -> RunConfig:
    """Return the run with its devices' profiles in it and the digest of their trace, after a check that models fit.

    Raises:
        ConfigError: If a file of them is missing or wrong, a device is too small for its model type, hours are given
            that do not count, or none that could, or clients that send masked updates may be lost on their way.
    """
    devices = make_devices(config, model_types)
    if devices is None:
        return config
    if problems := device_problems(device_fits(config, model_types, devices)):
        raise ConfigError(problems)
    section = with_used_profiles(config.devices, devices)
    if section.trace is not None:
        section = section.model_copy(update={"trace_sha256": devices_sha256(section.trace)})
    config = config.model_copy(update={"devices": section})
    if problems := hours_problems(config) + masks_problems(config, devices):
        raise ConfigError(problems)
    return config


def masks_problems(config: RunConfig, devices: Devices) -> list[str]:
    """Return why masks do not go with a virtual clock under which a client may be lost while it sends.

    Its update is held back until it is known whether it arrives, and gets its mask then: too late to take time.
    """
    if not (config.clock.is_on and config.secure_aggregation.enabled):
        return []
    text = f"secure_aggregation under clock.mode = {config.clock.mode} needs clients that are not lost on their way"
    problems = []
    if devices.have_batteries:
        problems.append(f"{text}, and devices have battery_wh. Set it to null, or switch secure_aggregation off.")
    if config.availability.is_limited:
        limit = f"availability.model = {config.availability.model}"
        problems.append(f"{text}, and {limit}. Set always, or switch secure_aggregation off.")
    return problems


def with_known_windows(config: RunConfig, population: Population, hours: DeviceHours | None = None) -> RunConfig:
    """Return the run with the digest of its trace of availability, after a check that round 1 finds whom it sends out.

    If that round does, every round does, for availability repeats and no later one sends out more. `hours` are those of
    devices, where these count.

    Raises:
        ConfigError: If a trace cannot be read or does not fit.
        TooFewAvailable: If there are too few clients through a whole period.
    """
    selection = CohortSelection(population, config.cohort, config.availability, run_seed=config.seed, hours=hours)
    section = config.availability
    if not section.is_limited:
        return config
    selection.draw(1, counts=dispatch_of(population, config.cohort, config.clock, ()).counts)
    if section.trace is not None:
        section = section.model_copy(update={"trace_sha256": windows_sha256(section.trace)})
    return config.model_copy(update={"availability": section})


def check_every_type_trains(config: RunConfig, model_types: Sequence[ModelType], population: Population) -> None:
    """Check that rounds have clients of every model type: as many as its share, which is the same in all of them.

    Raises:
        ConfigError: If the share of a type is none; with what would be enough.
    """
    wanted = dispatch_of(population, config.cohort, config.clock, ()).wanted
    sizes = {place: len(population.ids_of(place)) for place in wanted}
    enough = -(-population.num_members // min(sizes.values(), default=1))
    key, given = "cohort.clients", config.cohort.clients
    if config.clock.concurrency is not None:
        key, given = "clock.concurrency", config.clock.concurrency
    problems = []
    for place, num_wanted in wanted.items():
        if num_wanted == 0:
            name, share = model_types[place].name, f"{sizes[place]} of the fleet's {population.num_members} clients"
            text = f"{key} = {given} is too few for any round to have a client of {name} ({share})"
            problems.append(f"{text}. Set it to {enough}, or take {name} out of fleet.")
    if problems:
        raise ConfigError(problems)


def check_protection(config: RunConfig, model_types: Sequence[ModelType], population: Population) -> None:
    """Check that a round has the clients that its protection needs, and that hostile ones exist.

    Raises:
        ConfigError: With every problem.
    """
    sizes = {model_types[place].name: count for place, count in cohort_counts(population, config.cohort).items()}
    problems = cohort_problems(
        sizes, config.aggregate, config.secure_aggregation, min_clients=config.cohort.min_clients
    )
    if problems:
        raise ConfigError(problems)
    hostile_clients(population, config.misbehaviour.byzantine, run_seed=config.seed)


def with_picked_noise(config: RunConfig, model_types: Sequence[ModelType], population: Population) -> RunConfig:
    """Return the run with the noise that privacy.noise_multiplier = auto means.

    Raises:
        ConfigError: If the noise leaves the range of exact sums, or dp-accounting is not installed.
    """
    if config.privacy.mechanism == "none":
        return config
    from heterotune.privacy.account import picked_noise  # imports torch

    of_type = draws_of_types(population, config.cohort)
    methods = (config.strategy, *config.compare_with)
    layouts, of_layout = [], {}
    for method in methods:
        for model_type in model_types:
            if model_type.index in of_type:
                of_layout[len(layouts)] = of_type[model_type.index]
                layouts.append(adapter_layout(method, config, model_type, model_types))
    privacy = picked_noise(config.privacy, layouts, of_layout, num_rounds=config.rounds)
    return config.model_copy(update={"privacy": privacy})


def with_counted_classes(config: RunConfig, label_names: Sequence[str]) -> RunConfig:
    """Return the run with the number of classes that fedproto.num_classes = auto means.

    Raises:
        DataError: If a method needs classes, and the data has none, or more than the run says.
    """
    if "fedproto" not in (config.strategy, *config.compare_with):
        return config
    wanted, found = config.fedproto.num_classes, len(label_names)
    if not found:
        raise DataError("strategy fedproto needs classes, and no row has a label. Use data with labels.")
    if wanted != "auto" and wanted < found:
        raise DataError(f"fedproto.num_classes = {wanted}, and the data has {found} labels. Raise it, or set auto.")
    picked = config.fedproto.model_copy(update={"num_classes": found if wanted == "auto" else wanted})
    return config.model_copy(update={"fedproto": picked})


def check_logit_adjustment(config: RunConfig, data_of_type: Sequence[FederatedData]) -> None:
    """Check that local.logit_adjustment has labels to adjust, in tokens that all model types share.

    Raises:
        DataError: If it has not.
    """
    if config.local.logit_adjustment is None:
        return
    setting = f"local.logit_adjustment = {config.local.logit_adjustment:g}"
    if not data_of_type[0].label_names:
        raise DataError(f"{setting} needs labels, and no row has one. Name them in data.fields, or set it to null.")
    if len(data_of_type) > 1 and any(data is not data_of_type[0] for data in data_of_type):
        raise DataError(f"{setting} needs one tokenizer, and the fleet has several. Use one, or set it to null.")


def public_rows(config: RunConfig, tokenizer: TextTokenizer) -> Rows | None:
    """Return the public rows that alignment and distillation read, None if the run aligns nothing.

    Raises:
        DataError: If the public text is missing or empty, or has no questions where these are wanted.
    """
    if not has_head(config):
        return None
    options = config.heterotune
    return build_public_rows(
        config.data,
        tokenizer,
        num_tokens=options.align_tokens,
        run_seed=config.seed,
        positions=options.align_positions,
    )
