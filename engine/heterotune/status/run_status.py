"""Everything that `heterotune status` says, as one plain record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.config.yaml_text import read_yaml
from heterotune.errors import ConfigError, LaunchError
from heterotune.launching.local import open_to_resume
from heterotune.launching.progress import saved_rounds
from heterotune.launching.slurm_cluster import JobState
from heterotune.plain_files import MAX_YAML_BYTES, read_small_text
from heterotune.run_folder import CHECKPOINTS_FOLDER, MANIFEST_FILE, STATUS_FILE, RunFolder
from heterotune.run_lock import is_alive
from heterotune.status.round_records import RoundRecords, read_round_records, seconds_left
from heterotune.status.run_state import ENDED, ask_slurm, judge, read_job_id


@dataclass(frozen=True)
class RankPresence:
    """Where a rank of the last attempt is; `alive` is None on another host."""

    mpi_rank: int
    host: str
    pid: int
    alive: bool | None


@dataclass(frozen=True)
class RunStatus:
    """How a run is doing.

    Attributes:
        run_dir: Its folder.
        state, reason: As `RunState`.
        strategy: The one at work, or the last.
        strategies: All, in order.
        round, rounds: The round at work, of how many.
        rounds_done: Newest round that ended.
        phase: What the root does; "" if nothing.
        loss: Model type -> newest held-out loss, nats per token.
        loss_before: Model type -> (round, loss) of an earlier evaluation.
        seconds_per_round: Median of the newest rounds; None before the first.
        seconds_left: Estimate to the end; None if it has ended or nothing is known yet.
        seconds_since_sign: Since the ranks last said something; None before they did.
        ranks: Those of the last attempt.
        job: Slurm's number, "" if there is none.
        checkpoint: "round 3", or what else is saved; "no round".
        checkpoint_age_seconds: Since the newest checkpoint; None if there is none.
        disk_bytes: Of all files in the run folder.
    """

    run_dir: str
    state: str
    reason: str
    strategy: str
    strategies: tuple[str, ...]
    round: int
    rounds: int
    rounds_done: int
    phase: str
    loss: dict[str, float | None]
    loss_before: dict[str, tuple[int, float | None]]
    seconds_per_round: float | None
    seconds_left: float | None
    seconds_since_sign: float | None
    ranks: tuple[RankPresence, ...]
    job: str
    checkpoint: dict[str, int]
    checkpoint_age_seconds: float | None
    disk_bytes: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ENDED


def read_status(run_dir: Path, *, ask: Callable[[str], JobState | None] = ask_slurm) -> RunStatus:
    """Read how a run is doing. Nothing in its folder is changed, and it may be at work.

    Args:
        run_dir: The run folder.
        ask: Asks Slurm about a job.

    Raises:
        LaunchError: If it is no run folder.
    """
    folder = open_to_resume(run_dir)
    run, status, job = _read_run(folder), folder.read_status() or {}, read_job_id(folder)
    state = judge(folder, status, ask(job))
    strategies = (str(run.get("strategy", "heterotune")), *map(str, run.get("compare_with") or ()))
    strategy = str(status.get("strategy") or strategies[0])
    records = read_round_records(folder.path if strategy == strategies[0] else folder.path / "compare" / strategy)
    rounds = int(status.get("rounds") or run.get("rounds") or 0)
    runs = state.name not in ENDED
    left = seconds_left(strategies, strategy, rounds, records.rounds_done, records.seconds_per_round) if runs else None
    return RunStatus(
        run_dir=str(folder.path),
        state=state.name,
        reason=state.reason,
        strategy=strategy,
        strategies=strategies,
        round=max(int(status.get("round") or 0), records.rounds_done),
        rounds=rounds,
        rounds_done=records.rounds_done,
        phase=str(status.get("phase") or "") if runs else "",
        loss=_newest_losses(status, records),
        loss_before=records.earlier_losses,
        seconds_per_round=records.seconds_per_round,
        seconds_left=left,
        seconds_since_sign=_age(folder.path / STATUS_FILE),
        ranks=_presences(folder),
        job=job,
        checkpoint=saved_rounds(folder.path),
        checkpoint_age_seconds=_newest_age(folder.path),
        disk_bytes=_disk_bytes(folder.path),
    )


def _read_run(folder: RunFolder) -> Mapping[str, Any]:
    """Return config.yaml as it stands: of an older version, or with a model that is not here, it must do, too."""
    try:
        run, _ = read_yaml(read_small_text(folder.config_path, MAX_YAML_BYTES), str(folder.config_path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise LaunchError(f"{folder.config_path}: cannot be read ({error}). Bring it back, or name a run.") from error
    return run if isinstance(run, dict) else {}


def _newest_losses(status: Mapping[str, Any], records: RoundRecords) -> dict[str, float | None]:
    """Return the losses on record, or those that the display shows before the first are."""
    return records.losses or dict(status.get("loss") or {})


def _presences(folder: RunFolder) -> tuple[RankPresence, ...]:
    known = [process for process in folder.read_presences() if process.keys() >= {"mpi_rank", "host", "pid"}]
    return tuple(
        RankPresence(process["mpi_rank"], process["host"], process["pid"], is_alive(process)) for process in known
    )


def _newest_age(run_dir: Path) -> float | None:
    manifests = [
        path
        for folder in (run_dir, *run_dir.glob("compare/*"))
        for path in folder.glob(f"{CHECKPOINTS_FOLDER}/round-*/{MANIFEST_FILE}")
    ]
    ages = [age for path in manifests if (age := _age(path)) is not None]
    return min(ages, default=None)


def _age(path: Path) -> float | None:
    """Return the seconds since a file was written; None if it is not there (any more)."""
    with suppress(OSError):
        return max(0.0, time.time() - path.stat().st_mtime)
    return None


def _disk_bytes(run_dir: Path) -> int:
    """Add up the files; one that a run takes away meanwhile counts nothing."""
    total = 0
    for path in run_dir.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total
