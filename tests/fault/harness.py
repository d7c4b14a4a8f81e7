"""Lets one fault strike a small federation, watches how the run ends, and goes on with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from points import NUM_RANKS, NUM_ROUNDS, WATCHDOG_SECONDS, FaultPoint

from heterotune.checkpoint import newest_checkpoint
from heterotune.errors import CheckpointError

SOURCE = Path(__file__).parents[2] / "engine"
_FAULTY_RUN = Path(__file__).with_name("faulty_run.py")
_LIMIT_SECONDS = 240.0
_DISK_BYTES = 4 << 20
_SMALLEST_ROOM_BYTES = 8192

_MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
_RUN = {
    "name": "fault",
    "seed": 5,
    "rounds": NUM_ROUNDS,
    "watchdog_seconds": WATCHDOG_SECONDS,
    "fleet": [
        {"name": "a", "model": f"{_MODEL},num_hidden_layers=2", "clients": 5},
        {"name": "b", "model": f"{_MODEL},num_hidden_layers=1,seed=3", "clients": 3},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "cohort": {"fraction": 0.7},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64, "personal_rank": 1},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 3},
}


@dataclass(frozen=True)
class Outcome:
    """One line of the report."""

    point: int
    what: str
    mpi_rank: int
    round: int
    phase: str
    delay_seconds: float
    seconds_to_end: float
    """From the fault to the end of `heterotune run`."""
    exit_code: int
    cause_named: bool
    processes_left: int
    checkpoint_round: int
    """Round of the newest whole checkpoint after the fault; 0 = none was saved yet."""
    resume_ranks: int
    digest_equal: bool
    terminal: str
    """What the run said at its end."""

    @property
    def is_good(self) -> bool:
        """Whether all is as the design promises; a hang may take as long as the watchdog waits."""
        limit_seconds = 10.0 + (WATCHDOG_SECONDS if self.what.startswith("SIGSTOP") else 0.0)
        ended_well = self.exit_code != 0 and self.cause_named and self.processes_left == 0
        return ended_well and self.seconds_to_end < limit_seconds and self.digest_equal


def write_run(folder: Path) -> Path:
    """Write a corpus and a run file; returns the latter."""
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner in range(8)
        for number in range(4 + owner)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**_RUN, "data": {**_RUN["data"], "source": str(folder / "corpus.jsonl")}}
    (folder / "run.yaml").write_text(json.dumps(run))
    return folder / "run.yaml"


def uninterrupted_digest(run_file: Path) -> str:
    """Run it without a fault, on one rank, and return the digest of its global adapters."""
    output = run_file.parent / "uninterrupted"
    ended = _heterotune("run", run_file, "--output", output)
    assert ended.returncode == 0, ended.stderr
    return _digest(_only_folder(output))


def strike(point: FaultPoint, run_file: Path, digest: str, folder: Path) -> Outcome:
    """Run with the fault, look at what is left, and go on.

    Args:
        point: The fault.
        run_file: From `write_run`.
        digest: From `uninterrupted_digest`.
        folder: An empty one.
    """
    fault_file, happened = folder / "fault.json", folder / "happened"
    with _disk(folder / "runs", is_small=point.what == "full disk") as output:
        filler = output / "filler"
        room = {"filler": str(filler), "left_bytes": int(point.place * _SMALLEST_ROOM_BYTES)}
        fault_file.write_text(json.dumps({**asdict(point), **room, "happened": str(happened)}))
        ended = _heterotune("run", run_file, "--output", output, "--ranks", NUM_RANKS, fault_file=fault_file)
        seconds_to_end = time.time() - happened.stat().st_mtime if happened.exists() else float("nan")
        left = _processes_of(fault_file)
        run_folder = _only_folder(output, besides=filler)
        damaged = _damage(point, run_folder)
        filler.unlink(missing_ok=True)
        checkpoint_round = _checkpoint_round(run_folder)
        resumed = _heterotune("run", "--resume", run_folder, "--ranks", point.resume_ranks)
        cause_named = re.search(_cause(point), ended.stderr) is not None and _is_told(damaged, run_folder)
        return Outcome(
            point=point.number,
            what=point.what,
            mpi_rank=point.mpi_rank,
            round=point.round,
            phase=point.phase,
            delay_seconds=point.delay_seconds,
            seconds_to_end=round(seconds_to_end, 2),
            exit_code=ended.returncode,
            cause_named=cause_named,
            processes_left=len(left),
            checkpoint_round=checkpoint_round,
            resume_ranks=point.resume_ranks,
            digest_equal=resumed.returncode == 0 and _digest(run_folder) == digest,
            terminal=ended.stderr + (resumed.stderr if resumed.returncode else ""),
        )


def _heterotune(*arguments: object, fault_file: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line, with faulty ranks if there is a fault."""
    program = ["-c", "from heterotune.cli import main; main()"]
    if fault_file is not None:
        program = [str(_FAULTY_RUN), str(fault_file)]
    command = [sys.executable, *program, *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_LIMIT_SECONDS)


@contextmanager
def _disk(path: Path, *, is_small: bool) -> Iterator[Path]:
    """Make a folder, on a file system of its own if it is to become full."""
    path.mkdir()
    if not is_small:
        yield path
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def _only_folder(output: Path, besides: Path | None = None) -> Path:
    (folder,) = (path for path in output.iterdir() if path != besides)
    return folder


def _processes_of(fault_file: Path) -> list[psutil.Process]:
    """Return what still runs of a faulty run: the file's path is an argument of all of it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(fault_file) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _damage(point: FaultPoint, run_folder: Path) -> Path | None:
    """Truncate a file of the newest checkpoint or flip a bit of it; returns it."""
    if not point.what.startswith("checkpoint"):
        return None
    newest = max((run_folder / "checkpoints").glob("round-*"))
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    path = files[int(point.place * 997) % len(files)]
    content = bytearray(path.read_bytes())
    place = int(point.place * len(content))
    if point.what == "checkpoint truncated":
        del content[place:]
    else:
        content[place] ^= 1 << (place % 8)
    path.unlink()  # the file may have other names, in other checkpoints
    path.write_bytes(content)
    return path


def _checkpoint_round(run_folder: Path) -> int:
    """Return the round of the newest whole checkpoint; 0 = there is none, -1 = there are only broken ones."""
    try:
        saved = newest_checkpoint(run_folder)
    except CheckpointError:
        return -1
    return 0 if saved is None else saved.round_number


def _cause(point: FaultPoint) -> str:
    """Return a pattern of what the terminal must say."""
    return {
        "SIGKILL of mpirun": r"mpirun, which started the ranks, was killed by signal 9",
        "SIGSTOP of a rank": rf"MPI rank {point.mpi_rank} \(process \d+\) is stopped",
        "client raises": rf"MPI rank {point.mpi_rank} failed:(?s:.*)client \d+: injected fault in round {point.round}",
        "full disk": r"No space left on device",
    }.get(point.what, rf"MPI rank {point.mpi_rank} was killed by signal 9")


def _is_told(damaged: Path | None, run_folder: Path) -> bool:
    """Return whether the run that went on named the checkpoint that was damaged."""
    if damaged is None:
        return True
    checkpoint = damaged.relative_to(run_folder / "checkpoints").parts[0]
    return f"{checkpoint}: " in (run_folder / "logs" / "rank-0000.log").read_text()


def _digest(run_folder: Path) -> str:
    return json.loads((run_folder / "summary.json").read_text())["global_adapter_sha256"]
