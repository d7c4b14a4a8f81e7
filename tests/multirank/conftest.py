"""What tests of whole runs share: a small corpus with a run file, and a worker on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from heterotune.client_segments import latest_states


@pytest.fixture(scope="session")
def write_run() -> Callable[[Path, Mapping[str, Any], int], Path]:
    """Write a run file, and beside it a corpus of small functions; every owner has two more than the one before."""

    def write(folder: Path, run: Mapping[str, Any], num_owners: int) -> Path:
        lines = [
            {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
            for owner in range(num_owners)
            for number in range(4 + 2 * owner)
        ]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = {**run, "data": {**run["data"], "source": str(folder / "corpus.jsonl")}}
        (folder / "run.yaml").write_text(yaml.safe_dump(run))
        return folder / "run.yaml"

    return write


@pytest.fixture(scope="session")
def work_on(run_mpi) -> Callable[[Path], Callable[..., Path]]:
    """Return what runs a worker on a run folder beside a run file: (name, ranks, options) -> the folder."""

    def on(run_file: Path) -> Callable[..., Path]:
        def run(name: str, num_ranks: int, *options: str) -> Path:
            out = run_file.parent / name
            out.mkdir(exist_ok=True)
            arguments = ["-m", "heterotune.worker", run_file, "--run-dir", out, *options]
            ended = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=240, environment={"DS_ACCELERATOR": "cpu"})
            assert ended.returncode == 0, ended.output
            return out

        return run

    return on


@pytest.fixture(scope="session")
def kept_by_clients() -> Callable[[Path], dict[tuple[str, str, int], bytes]]:
    """Return what reads a strategy's folder: what clients keep at the end, in whichever files it is."""

    def read(part: Path) -> dict[tuple[str, str, int], bytes]:
        folder = part / "clients"
        states = latest_states(folder) if folder.is_dir() else {}
        return {client: state.tobytes() for client, state in states.items()}

    return read


@pytest.fixture(scope="session")
def result_of(kept_by_clients) -> Callable[[Path, tuple[str, ...]], dict[str, Any]]:
    """Return what reads a finished run: all that must not depend on ranks or interruptions, metrics by their names."""

    def read(out: Path, names: tuple[str, ...]) -> dict[str, Any]:
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return {
            "sha256": json.loads((out / "summary.json").read_text())["global_adapter_sha256"],
            "ledger": (out / "ledger.jsonl").read_text(),
            "metrics": [entry for entry in metrics if entry["name"].startswith(names)],
            "clients": kept_by_clients(out),
        }

    return read
