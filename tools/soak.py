"""A hundred rounds of a small federation: does memory, the number of open files or the run folder grow?

    python tools/soak.py --rounds 100 --ranks 2 --output docs/results/soak.csv

One line per look, every few rounds: resident bytes (from memory.jsonl) and open descriptors (/proc/PID/fd) of each
rank, number and bytes of files in the run folder, without the .jsonl files and logs, which grow by the line. The exit
code is 1 if something grows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from heterotune.config.load import parse_run
from heterotune.launching.local import run_local
from heterotune.run_folder import RunFolder

sys.path.append(str(Path(__file__).parent / "benchmarks"))

from tables import write_table  # noqa: E402

WARM_UP_ROUNDS = 20
NOISE_BYTES = 8 << 20
"""Resident memory of a rank moves by a few MiB from round to round; less than this over a whole run is no growth."""
_MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, judge; returns the exit code."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder.create(parse_run(_run(options.rounds)), name, "soak")
        looks = _Looks(folder)
        code = run_local(folder, options.ranks, on_status=looks.look)
        if code != 0:
            print(f"the run failed with exit code {code}", file=sys.stderr)
            return code
        resident = _resident(folder, options.ranks)
    rows = [look | resident.get(look["round"], {}) for look in looks.rows if look["round"] in resident]
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_table(options.output, [{name: row.get(name, "") for name in names} for row in rows])
    return _judge(rows, resident, options.ranks)


class _Looks:
    """Looks at the processes and the folder once a round, when the status says that it has begun."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def look(self, status: Mapping[str, Any]) -> None:
        """Note what there is, if the round is a new one."""
        round_number = status.get("round", 0)
        if round_number == 0 or self.rows and self.rows[-1]["round"] == round_number:
            return
        row: dict[str, Any] = {"round": round_number}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, KeyError):
                environ = process.environ()
                row[f"descriptors_{int(environ['OMPI_COMM_WORLD_RANK'])}"] = process.num_fds()
        files = []
        for parent, _, names in os.walk(self.folder.path):  # a folder that is gone by then is passed over
            for path in (Path(parent) / name for name in names if not name.startswith(".")):
                with suppress(FileNotFoundError):
                    files += [path.stat().st_size] if path.suffix not in (".jsonl", ".log") else []
        self.rows.append(row | {"num_files": len(files), "file_bytes": sum(files)})


def _resident(folder: RunFolder, num_ranks: int) -> dict[int, dict[str, int]]:
    """Return each round's largest resident bytes of every rank."""
    peaks: dict[int, dict[str, int]] = {}
    for line in (folder.path / "memory.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "host_resident":
            of_round = peaks.setdefault(record["round"], {})
            key = f"resident_bytes_{record['mpi_rank']}"
            of_round[key] = max(of_round.get(key, 0), record["peak_bytes"])
    return peaks


def _judge(rows: Sequence[Mapping[str, Any]], resident: Mapping[int, Mapping[str, int]], num_ranks: int) -> int:
    """Print how things moved after the warm-up; returns 1 if something grew."""
    late, grew = [row for row in rows if row["round"] > WARM_UP_ROUNDS], False
    for mpi_rank in range(num_ranks):
        key = f"resident_bytes_{mpi_rank}"
        rounds = [number for number in resident if number > WARM_UP_ROUNDS and key in resident[number]]
        values = np.array([resident[number][key] for number in rounds], dtype=np.float64)
        slope = float(np.polyfit(rounds, values, 1)[0])
        growth = slope * (rounds[-1] - rounds[0])
        descriptors = [row[f"descriptors_{mpi_rank}"] for row in late if f"descriptors_{mpi_rank}" in row]
        print(
            f"rank {mpi_rank}: {slope / 1024:+.1f} KiB a round, {growth / 2**20:+.2f} MiB in all, "
            f"spread {values.std() / 2**20:.2f} MiB; {min(descriptors)} to {max(descriptors)} descriptors"
        )
        half = len(descriptors) // 2
        leaks = max(descriptors[half:]) > max(descriptors[:half]) + 2
        grew = grew or growth > NOISE_BYTES or leaks
    files = [(row["num_files"], row["file_bytes"]) for row in late]
    print(f"files: {min(files)[0]} to {max(files)[0]}, {min(f[1] for f in files)} to {max(f[1] for f in files)} bytes")
    return int(grew or max(files)[0] > 2 * min(files)[0])


def _run(rounds: int) -> dict[str, Any]:
    return {
        "name": "soak",
        "rounds": rounds,
        "fleet": [
            {"name": "a", "model": f"{_MODEL},num_hidden_layers=2", "clients": 6},
            {"name": "b", "model": f"{_MODEL},num_hidden_layers=1,seed=3", "clients": 4},
        ],
        "data": {"source": "embedded:stdlib", "max_tokens": 16, "max_rows_per_client": 32},
        "cohort": {"fraction": 0.5},
        "local": {"steps": 4, "batch_size": 2},
        "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 256, "personal_rank": 1},
        "backbone": {"ds_config": "none"},
        "chunk": {"clients": 2},
        "evaluate": {"max_rows": 16},
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="federation rounds, more than the 20 to warm up")
    parser.add_argument("--ranks", type=int, default=2, help="MPI ranks, at least 2")
    parser.add_argument("--output", type=Path, default=Path("docs/results/soak.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
