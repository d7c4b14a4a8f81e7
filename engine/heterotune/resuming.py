"""What an earlier job of a run folder left: how far each strategy came, and whether this run is the same one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heterotune.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint
from heterotune.collective.channel import ROOT, Channel
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError
from heterotune.run_folder import CHECKPOINTS_FOLDER, RunFolder

FREE_KEYS = (
    "rounds",
    "name",
    "output",
    "watchdog_seconds",
    "bind_cores",
    "compare_with",
    "checkpoint",
    "chunk.of_type",
    "backbone.group",
    "placement",
    "evaluate.metrics",
    "tensorboard",
)
"""What may differ between the jobs of a run: the bits of a round depend on none of them."""


@dataclass(frozen=True)
class Part:
    """One strategy of a run.

    Attributes:
        strategy: Its name.
        folder: Its files.
        saved: Where it stands; None = not begun.
        summary: What came out, if it has run all rounds. At the root; an empty one elsewhere.
    """

    strategy: str
    folder: RunFolder
    saved: Checkpoint | None
    summary: dict[str, Any] | None


def parts_of_run(config: RunConfig, folder: RunFolder, channel: Channel, *, resume: bool) -> list[Part]:
    """Return `strategy` and each of `compare_with`. Every rank must call this; the root decides for all.

    Args:
        config: The run, "auto" replaced where that is known by now.
        folder: The run folder; comparisons go to folders in it.
        channel: The ranks.
        resume: Look for what an earlier job left.

    Raises:
        CheckpointError: If no checkpoint of a strategy is whole.
        ConfigError: If the earlier job's run differs from this one in what matters.
    """
    parts = []
    for name in (config.strategy, *config.compare_with):
        own = folder if name == config.strategy else folder.subfolder("compare").subfolder(name)
        saved = _find(own, channel) if resume else None
        if saved is not None:
            check_same_run(saved, config)
        summary = _finished(own, channel, config.rounds) if saved is not None else None
        parts.append(Part(name, own, saved, summary))
    return parts


def check_same_run(saved: Checkpoint, config: RunConfig) -> None:
    """Refuse to go on with a run that is another one. A key that was not there yet when it began had its default.

    Raises:
        ConfigError: Names every key that differs, or that fewer rounds are wanted than are done.
    """
    before, now = (
        dict(_flat(dump)) for dump in (_with_defaults(saved.facts["config"]), config.model_dump(mode="json"))
    )
    problems = [
        f"{key} was {before.get(key)!r} when the run began and is {now.get(key)!r} now. Restore it, or start a new run."
        for key in sorted(before.keys() | now.keys())
        if not key.startswith(FREE_KEYS) and before.get(key) != now.get(key)
    ]
    if saved.round_number > config.rounds:
        problems.append(
            f"rounds = {config.rounds} is less than the {saved.round_number} rounds that are done. Raise it."
        )
    if problems:
        raise ConfigError(problems)


def _with_defaults(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved run with what its version did not know yet; as it is, if this one does not understand it."""
    try:
        return parse_run(dump, begun=True).model_dump(mode="json")
    except ConfigError:
        return dump


def _find(folder: RunFolder, channel: Channel) -> Checkpoint | None:
    """Return the newest whole checkpoint, the same on every rank."""
    found = newest_checkpoint(folder.path) if channel.mpi_rank == ROOT else None
    name = channel.broadcast_bytes(b"" if found is None else found.clients.parent.name.encode()).decode()
    if channel.mpi_rank == ROOT or not name:
        return found
    return read_checkpoint(folder.path / CHECKPOINTS_FOLDER / name)


def _finished(folder: RunFolder, channel: Channel, rounds: int) -> dict[str, Any] | None:
    """Return the summary of a strategy that has run all rounds."""
    summary = folder.find_summary() if channel.mpi_rank == ROOT else None
    is_finished = summary is not None and summary["rounds"] == rounds
    if not json.loads(channel.broadcast_bytes(json.dumps(is_finished).encode())):
        return None
    return summary or {}


def _flat(section: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Go through the values of nested mappings and lists under dotted names."""
    for key, value in section.items():
        if isinstance(value, list):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
