"""Runs side by side: which differ only in their seed, and mean and spread of what came out over these."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from heterotune.config.field_types import StrategyName
from heterotune.config.load import parse_run
from heterotune.errors import ConfigError, LaunchError
from heterotune.report.costs import JOULES, SECONDS, spent
from heterotune.report.metric_record import TARGET_METRICS
from heterotune.report.plots.learning import ALL_TYPES
from heterotune.report.run_record import RunRecord, StrategyRecord, read_run
from heterotune.run_folder import CONFIG_FILE, METRICS_FILE

MEASURES = {
    "loss": "nats/token",
    "accuracy": "share",
    "exact_match": "share",
    "up_bytes": "bytes",
    "down_bytes": "bytes",
    "seconds_per_round": "s",
    "peak_bytes": "bytes",
    "virtual_seconds": "s",
    "energy_joules": "J",
}
"""What is compared, with its unit; bytes up and down are those of a client in a round."""
_SPENT = {cost.name: cost for cost in (SECONDS, JOULES)}
_NOT_SETTINGS = ("name", "seed", "output", "strategy", "compare_with")
_MOST_IN_LABEL = 3


@dataclass(frozen=True)
class Spread:
    """A measure over runs.

    Attributes:
        mean: Their mean.
        std: Their sample standard deviation; None for a single run.
        num_runs: How many.
    """

    mean: float
    std: float | None
    num_runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of values; None if there are none."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Entry:
    """One strategy of one run."""

    run: RunRecord
    strategy: StrategyRecord

    @property
    def seed(self) -> Any:
        """The run's seed."""
        return self.run.config.get("seed")

    @property
    def is_whole(self) -> bool:
        """Whether it has all its rounds."""
        return bool(self.strategy.summary) or self.strategy.metrics.newest_round == self.run.rounds

    def measure(self, name: str, model_type: str) -> float | None:
        """Return what came out for a model type, or for all of them together."""
        if name == "seconds_per_round":
            return self.strategy.seconds_per_round
        if name == "peak_bytes":
            return self.strategy.peak_bytes
        if name in _SPENT:
            amounts = spent(self.strategy, _SPENT[name])
            return amounts[-1][1] if amounts else None
        if model_type == ALL_TYPES:
            found = [value for each in self.run.fleet if (value := self.measure(name, each)) is not None]
            return statistics.fmean(found) if found else None
        if name in TARGET_METRICS:
            curve = self.strategy.metrics.by(TARGET_METRICS[name], "model_type").get(model_type)
            return curve.last[1] if curve and curve.last else None
        return self.strategy.ledger.bytes_per_turn(model_type, name.removesuffix("_bytes"))


@dataclass
class Group:
    """Entries that differ only in their seed.

    Attributes:
        settings: What they have in common, key -> value.
        entries: By seed.
        label: Its name; tells it from the other groups.
    """

    settings: Mapping[str, str]
    entries: list[Entry] = field(default_factory=list)
    label: str = ""

    @property
    def counted(self) -> list[Entry]:
        """Entries whose figures count: the whole ones, or if there is none all that have begun."""
        whole = [entry for entry in self.entries if entry.is_whole]
        return whole or [entry for entry in self.entries if entry.strategy.metrics.newest_round > 0]

    @property
    def model_types(self) -> list[str]:
        """Of its fleet, with all of them together in front."""
        return [ALL_TYPES, *self.entries[0].run.fleet]

    def spread(self, name: str, model_type: str) -> Spread | None:
        """Return a measure over the runs that count."""
        found = [entry.measure(name, model_type) for entry in self.counted]
        return Spread.of([value for value in found if value is not None])

    def seeds(self) -> str:
        """Return the seeds of the runs that count."""
        return ", ".join(str(entry.seed) for entry in self.counted)


@dataclass
class Comparison:
    """Groups of runs.

    Attributes:
        groups: In the order in which their first runs were named.
        missing: What was left out or is odd, as sentences.
    """

    groups: list[Group]
    missing: list[str]

    @property
    def contestants(self) -> dict[str, list[StrategyRecord]]:
        """Label of a group -> what counts of it."""
        return {group.label: [entry.strategy for entry in group.counted] for group in self.groups}

    def differences(self) -> list[tuple[str, list[str]]]:
        """Return (key, its value in each group) of every setting that is not the same in all groups."""
        keys = dict.fromkeys(key for group in self.groups for key in group.settings)
        rows = [(key, [group.settings.get(key, "-") for group in self.groups]) for key in keys]
        return [(key, values) for key, values in rows if len(set(values)) > 1]


def compare(paths: Sequence[Path]) -> Comparison:
    """Read runs and put those together that differ only in their seed.

    Args:
        paths: Run folders, or folders of run folders, as `submit --array` makes them.

    Raises:
        LaunchError: If one of them is neither.
    """
    groups: dict[str, Group] = {}
    missing: list[str] = []
    for folder in dict.fromkeys(folder for path in paths for folder in run_folders(path)):
        run = read_run(folder)
        missing += [f"{folder.name}: {sentence}" for sentence in run.all_missing()]
        for strategy in run.strategies:
            settings = _settings(run, strategy.name)
            group = groups.setdefault(json.dumps(settings, sort_keys=True), Group(settings))
            group.entries.append(Entry(run, strategy))
    found = list(groups.values())
    for group in found:
        group.entries.sort(key=lambda entry: (len(str(entry.seed)), str(entry.seed)))
    comparison = Comparison(found, missing)
    _label(comparison)
    comparison.missing += [sentence for group in found for sentence in _oddities(group)]
    return comparison


def run_folders(path: Path) -> list[Path]:
    """Return a run folder itself, or the run folders in a folder, `seed-2` before `seed-10`.

    Raises:
        LaunchError: If there is none.
    """
    if _is_run(path):
        return [path.absolute()]
    found = sorted((child for child in path.glob("*") if _is_run(child)), key=_natural_order)
    if not found:
        raise LaunchError(f"{path}: neither a run folder nor a folder of run folders. Name one that `heterotune` made.")
    return [child.absolute() for child in found]


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (CONFIG_FILE, METRICS_FILE))


def _natural_order(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


def _settings(run: RunRecord, strategy: str) -> dict[str, str]:
    """Return what may tell groups apart: all settings but seed, names, and options of other strategies."""
    try:
        config: Mapping[str, Any] = parse_run(run.config, begun=True).model_dump(mode="json")
    except ConfigError:  # of another version, or damaged; what is there is compared as it stands
        config = run.config
    others = {*get_args(StrategyName)} - {strategy}
    kept = {key: value for key, value in config.items() if key not in others and key not in _NOT_SETTINGS}
    settings = {"strategy": strategy, **dict(_flat("", kept))}
    if settings.get("chunk.clients") == "auto":  # measured anew by every run
        settings = {key: value for key, value in settings.items() if not key.startswith("chunk.of_type")}
    return settings


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield `section.key`, and for a list of named things `list.name.key`, with the value as text."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        value = {str(each["name"]): {key: item for key, item in each.items() if key != "name"} for each in value}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _label(comparison: Comparison) -> None:
    """Name each group after its strategy and, where that does not tell it from others, what else is special."""
    for strategy in dict.fromkeys(group.settings["strategy"] for group in comparison.groups):
        namesakes = [group for group in comparison.groups if group.settings["strategy"] == strategy]
        keys = _telling_keys(namesakes)
        for group in namesakes:
            own = [f"{key.rpartition('.')[2]} {group.settings.get(key, '-')}" for key in keys]
            group.label = ", ".join([strategy, *own])
    times = Counter(group.label for group in comparison.groups)
    for number, group in enumerate(comparison.groups, start=1):
        if times[group.label] > 1:
            group.label = f"{group.label} ({number})"


def _telling_keys(groups: Sequence[Group]) -> list[str]:
    """Return the fewest settings that tell groups apart, the one that tells most apart first."""
    differences = [key for key, _ in Comparison(list(groups), []).differences()]
    keys: list[str] = []

    def num_told_apart(key: str) -> int:
        return len({tuple(group.settings.get(each) for each in (*keys, key)) for group in groups})

    while differences and len(keys) < _MOST_IN_LABEL:
        if keys and num_told_apart(keys[-1]) == len(groups):
            break
        keys.append(max(differences, key=num_told_apart))
        differences.remove(keys[-1])
    return keys


def _oddities(group: Group) -> Iterator[str]:
    """Say which runs do not count, and which seeds are there more than once."""
    for entry in group.entries:
        if not entry.is_whole:
            done = f"round {entry.strategy.metrics.newest_round} of {entry.run.rounds or '?'}"
            counts = "it counts all the same" if entry in group.counted else "it does not count"
            yield f"{group.label}: {entry.run.folder.name} has come to {done}; {counts}."
    for seed, times in Counter(str(entry.seed) for entry in group.entries).items():
        if times > 1:
            yield f"{group.label}: {times} runs have the seed {seed}; the spread over seeds is too small."
