"""Run folders written by hand: what a run of two model types leaves, as short as can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heterotune.config.load import parse_run
from heterotune.run_folder import RunFolder

MIB = 2**20
CONFIG = {
    "name": "tiny",
    "seed": 1,
    "rounds": 2,
    "fleet": [
        {"name": "a", "model": "embedded:small", "clients": 3},
        {"name": "b", "model": "embedded:large", "clients": 2},
    ],
    "data": {"source": "embedded:stdlib"},
    "compare_with": ["fedavg_lora"],
}
CLIENTS = [
    {"client": 0, "model_type": "a", "train_rows": 9, "heldout_rows": 2, "owners": {"x": 9}, "labels": {}},
    {"client": 3, "model_type": "b", "train_rows": 4, "heldout_rows": 1, "owners": {"x": 1, "y": 3}, "labels": {}},
]


def metrics(rounds: int, shift: float = 0.0) -> list[dict[str, Any]]:
    """Losses 3 - round/10 + shift, cosines -0.5 before and 0.25 after CMGA, 2 seconds a round."""
    lines: list[dict[str, Any]] = []
    for round_number in range(rounds + 1):
        at = {"round": round_number}
        for name in ("a", "b"):
            loss = 3.0 - round_number / 10 + shift + (name == "b")
            lines.append({**at, "name": "loss/eval", "model_type": name, "value": loss, "unit": "nats/token"})
            lines.append({**at, "name": "accuracy/eval", "model_type": name, "value": 0.5, "unit": "share"})
        if round_number > 0:
            for name, value in (("cmga/cosine", -0.5), ("cmga/cosine_after", 0.25)):
                lines.append({**at, "name": name, "group": "head", "pair": "b:a", "value": value, "unit": "cosine"})
            for name, value in (("round", 2.0), ("train", 1.5), ("evaluate", 0.25)):
                lines.append({**at, "name": f"seconds/{name}", "value": value, "unit": "s"})
            for rank in (0, 1):
                lines.append({**at, "name": "rank/idle_share", "mpi_rank": rank, "value": rank / 10, "unit": "share"})
    return lines


def ledger(rounds: int) -> list[dict[str, Any]]:
    """Every round client 0 of a sends 1 MiB and gets 2, client 3 of b sends 4 MiB."""
    sent = [(0, "a", "up", MIB), (0, "a", "down", 2 * MIB), (3, "b", "up", 4 * MIB)]
    return [
        {"round": n, "client": client, "model_type": name, "direction": way, "group": "g", "bytes": num_bytes}
        for n in range(1, rounds + 1)
        for client, name, way, num_bytes in sent
    ]


def memory(rounds: int, num_ranks: int = 2) -> list[dict[str, Any]]:
    """300 MiB and 10 for every rank, 100 of them runtime."""
    return [
        {
            **{"round": n, "mpi_rank": rank, "phase": phase, "kind": "host_resident"},
            **{"peak_bytes": (300 + 10 * rank) * MIB, "components": {"runtime": 100 * MIB}},
        }
        for n in range(1, rounds + 1)
        for rank in range(num_ranks)
        for phase in ("train", "evaluate")
    ]


def summary(strategy: str) -> dict[str, Any]:
    """What a whole run leaves."""
    return {
        **{"strategy": strategy, "seconds_per_round": 2.0, "startup": {"imports": 1.5}},
        "model_types": {"a": {"full_model_bytes": 10 * MIB}, "b": {"full_model_bytes": 40 * MIB}},
        **{"global_adapter_sha256": "cd" * 32, "environment": {"heterotune": "0.1.0", "num_ranks": 2}},
    }


def span(name: str, start_us: int, duration_us: int) -> dict[str, Any]:
    """One phase of a rank."""
    return {"name": name, "category": "phase", "start_us": start_us, "duration_us": duration_us, "facts": {}}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a whole run with a comparison; keys given by name replace those of its config."""

    def make(folder: str = "run", *, shift: float = 0.0, **config: Any) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        run, settings = RunFolder.open(path), parse_run(CONFIG | config)
        run.write_config(settings, {"heterotune": "0.1.0", "cpus": 2})
        run.write_spans(2, [[span("train", 10, 900_000)], [span("train", 20, 500_000), span("evaluate", 600_000, 9)]])
        (path / "data.json").write_text(json.dumps({"digest": "ef" * 32, "clients": CLIENTS}))
        for strategy in (settings.strategy, *settings.compare_with):
            part = run if strategy == settings.strategy else RunFolder.open(_made(path / "compare" / strategy))
            part.append_metrics(metrics(settings.rounds, shift))
            part.append_ledger(ledger(settings.rounds))
            part.append_memory(memory(settings.rounds))
            part.write_summary(summary(strategy))
        return path

    return make


@pytest.fixture
def make_bare_run(make_run) -> Callable[..., Path]:
    """Write a run that has one curve only, so that its page is drawn fast."""

    def make(folder: str = "run", **config: Any) -> Path:
        path = make_run(folder, compare_with=[], **config)
        lines = [line for line in metrics(2, config["seed"] / 10 if "seed" in config else 0.0) if "model_type" in line]
        kept = [line for line in lines if (line["name"], line["model_type"]) == ("loss/eval", "a")]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
        for name in ("memory.jsonl", "spans.json", "data.json", "ledger.jsonl"):
            (path / name).unlink()
        return path

    return make


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
