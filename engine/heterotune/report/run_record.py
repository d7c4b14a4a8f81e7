"""All that a run folder says of a run, whether it has ended, still works or has failed; damaged parts are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from heterotune.errors import HeterotuneError, LaunchError
from heterotune.plain_files import MAX_YAML_BYTES, read_small_text
from heterotune.profiling.run_profile import RunProfile, read_profiles, read_spans
from heterotune.report.data_record import ClientData, read_data
from heterotune.report.ledger_record import LedgerRecord, read_ledger_record
from heterotune.report.metric_record import Metrics, read_metrics
from heterotune.run_folder import CONFIG_FILE, DATA_FILE, LEDGER_FILE, METRICS_FILE, SPANS_FILE, SUMMARY_FILE, RunFolder
from heterotune.run_lock import LOCK_FILE

_COMPARISONS = "compare"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, HeterotuneError)

Content = TypeVar("Content")


@dataclass
class StrategyRecord:
    """One strategy of a run.

    Attributes:
        name: The strategy.
        folder: Where its files are.
        metrics: Its curves.
        ledger: Its bytes.
        summary: Its summary.json; empty while there is none.
        profile: Its memory; None if nothing could be read.
        missing: What is not there or damaged, as sentences.
    """

    name: str
    folder: Path
    metrics: Metrics = field(default_factory=Metrics)
    ledger: LedgerRecord = field(default_factory=LedgerRecord)
    summary: Mapping[str, Any] = field(default_factory=dict)
    profile: RunProfile | None = None
    missing: list[str] = field(default_factory=list)

    def loss_curves(self, name: str = "loss/eval") -> dict[str, list[tuple[float, float]]]:
        """Return model type -> (round, value) of a metric."""
        return {model_type: curve.points() for model_type, curve in self.metrics.by(name, "model_type").items()}

    def full_model_bytes(self, model_type: str) -> int | None:
        """Return what the full model of a type takes; None while the summary does not say."""
        found = _mapping(_mapping(self.summary.get("model_types")).get(model_type)).get("full_model_bytes")
        return found if isinstance(found, int) else None

    @property
    def seconds_per_round(self) -> float | None:
        """The median, or while there is no summary the mean."""
        found, curve = self.summary.get("seconds_per_round"), self.metrics.one("seconds/round")
        return float(found) if isinstance(found, int | float) else curve.mean if curve else None

    @property
    def peak_bytes(self) -> int | None:
        """The highest resident peak of an MPI rank."""
        peaks = self.profile.of_kind("host_resident") if self.profile else []
        return max((peak.peak_bytes for peak in peaks), default=None)


@dataclass
class RunRecord:
    """A run.

    Attributes:
        folder: The run folder.
        config: The resolved run; empty if it cannot be read.
        config_text: As it stands in the folder.
        state: "finished", "running", "failed" or "stopped".
        failure: Who failed and its traceback; "" if nobody did.
        strategies: The run's own first.
        data_digest: Of the federation's data; "" where data.json does not say.
        clients: Who holds what; empty where data.json does not say.
        spans: The newest round's, a list for each MPI rank; `spans_round` says which.
        missing: What is not there or damaged, as sentences.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    state: str = "stopped"
    failure: str = ""
    strategies: list[StrategyRecord] = field(default_factory=list)
    data_digest: str = ""
    clients: list[ClientData] = field(default_factory=list)
    spans: list[list[Mapping[str, Any]]] = field(default_factory=list)
    spans_round: int = 0
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("name") or self.folder.name)

    @property
    def rounds(self) -> int | None:
        """Rounds that were asked for."""
        rounds = self.config.get("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def fleet(self) -> dict[str, int | None]:
        """Model type -> clients, in the fleet's order."""
        fleet = self.config.get("fleet")
        named = {str(m["name"]): m.get("clients") for m in fleet if "name" in m} if _is_list_of_maps(fleet) else {}
        seen = [name for each in self.strategies for name in each.metrics.by("loss/eval", "model_type")]
        return {name: count if isinstance(count, int) else None for name, count in named.items()} | {
            name: None for name in seen if name not in named
        }

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware: from the summary, or from the comments above the config."""
        found = _mapping(self.strategies[0].summary.get("environment")) if self.strategies else {}
        heads = [line[2:].partition(": ") for line in self.config_text.splitlines() if line.startswith("# ")]
        return {key: value for key, _, value in heads} | {key: str(value) for key, value in found.items()}

    def all_missing(self) -> list[str]:
        """Return every sentence on what is not there, the strategies' with their names."""
        of_strategies = [
            f"{each.name}: {sentence}"
            for each in self.strategies
            for sentence in (*each.missing, *each.metrics.missing, *each.ledger.missing)
        ]
        return list(dict.fromkeys([*self.missing, *of_strategies]))


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        LaunchError: If it is no run folder.
    """
    folder = RunFolder.open(run_dir)
    if not any((folder.path / name).is_file() for name in (CONFIG_FILE, METRICS_FILE)):
        raise LaunchError(
            f"{folder.path} is no run folder: it has no {CONFIG_FILE}. Give the folder that `heterotune run` named."
        )
    run = RunRecord(folder.path)
    run.config_text = _try(run, CONFIG_FILE, lambda: read_small_text(folder.config_path, MAX_YAML_BYTES), "")
    run.config = _try(run, CONFIG_FILE, lambda: _parse_yaml(run.config_text), {})
    run.failure = _try(run, "failure.json", folder.first_failure_text, None) or ""
    run.strategies = [_read_strategy(name, path) for name, path in _parts(run)]
    _read_memory(run)
    run.state = _state(run)
    if (folder.path / SPANS_FILE).is_file():
        spans = _try(run, SPANS_FILE, lambda: _checked_spans(folder.path), {"round": 0, "ranks": []})
        run.spans, run.spans_round = spans["ranks"], spans["round"]
    if (folder.path / DATA_FILE).is_file():
        run.data_digest, run.clients = _try(run, DATA_FILE, lambda: read_data(folder.path / DATA_FILE), ("", []))
    return run


def _parts(run: RunRecord) -> list[tuple[str, Path]]:
    """Return (strategy, folder): the run's own, then its comparisons in the order of the config."""
    asked = run.config.get("compare_with")
    order = [str(name) for name in asked] if isinstance(asked, list) else []
    found = {path.name: path for path in sorted((run.folder / _COMPARISONS).glob("*")) if path.is_dir()}
    named = [name for name in order if name in found] + [name for name in found if name not in order]
    return [(str(run.config.get("strategy") or "run"), run.folder), *((name, found[name]) for name in named)]


def _read_strategy(name: str, path: Path) -> StrategyRecord:
    strategy = StrategyRecord(name, path)
    strategy.metrics = _try_file(strategy, METRICS_FILE, read_metrics, Metrics())
    strategy.ledger = _try_file(strategy, LEDGER_FILE, read_ledger_record, LedgerRecord())
    strategy.summary = _try(strategy, SUMMARY_FILE, RunFolder.open(path).find_summary, None) or {}
    return strategy


def _try_file(record: StrategyRecord, name: str, read: Callable[[Path], Content], default: Content) -> Content:
    if not (record.folder / name).is_file():
        record.missing.append(f"There is no {name}: no round has ended, or it was removed.")
        return default
    return _try(record, name, lambda: read(record.folder / name), default)


def _try(record: RunRecord | StrategyRecord, name: str, read: Callable[[], Content], default: Content) -> Content:
    """Return what `read` returns; where that fails say so, and go on with the default."""
    try:
        return read()
    except _DAMAGED as error:
        record.missing.append(f"{name} cannot be read and was left out: {error}")
        return default


def _read_memory(run: RunRecord) -> None:
    profiles = {profile.folder: profile for profile in _try(run, "memory.jsonl", lambda: read_profiles(run.folder), [])}
    for strategy in run.strategies:
        strategy.profile = profiles.get(strategy.folder)
        strategy.missing += strategy.profile.missing if strategy.profile else ()


def _checked_spans(folder: Path) -> dict[str, Any]:
    spans = read_spans(folder)
    for rank in spans["ranks"]:
        for span in rank:
            if not (isinstance(span["name"], str) and span["start_us"] >= 0 and span["duration_us"] >= 0):
                raise ValueError(f"a span is {span!r:.60}")
    return {"round": int(spans["round"]), "ranks": spans["ranks"]}


def _state(run: RunRecord) -> str:
    if run.failure:
        return "failed"
    if run.strategies[0].summary:
        return "finished"
    return "running" if (run.folder / LOCK_FILE).exists() else "stopped"


def _parse_yaml(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error
    if not isinstance(content, dict):
        raise ValueError("it holds no keys and values")
    return content


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_list_of_maps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
