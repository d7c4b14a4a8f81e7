"""The run folder: every file of a run, under its final name only when complete; `.jsonl` files grow by whole lines."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.config.load import dump_run
from heterotune.config.schema import RunConfig
from heterotune.errors import CheckpointError, LaunchError
from heterotune.plain_files import read_small_text

CONFIG_FILE = "config.yaml"
STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.json"
DATA_FILE = "data.json"
FAILURE_FILE = "failure.json"
METRICS_FILE = "metrics.jsonl"
LEDGER_FILE = "ledger.jsonl"
TRAFFIC_FILE = "traffic.jsonl"
MEMORY_FILE = "memory.jsonl"
TIMELINE_FILE = "timeline.jsonl"
"""What every client took in virtual time; only where a run has a clock."""
SPANS_FILE = "spans.json"
"""When each rank did what in the newest round; `heterotune profile --trace` turns it into a trace."""
CHECKPOINTS_FOLDER = "checkpoints"
MANIFEST_FILE = "manifest.json"
"""A checkpoint is `checkpoints/round-000010/`, and whole exactly if this file is in it."""
PROGRESS_FOLDER = "progress"
"""What is finished of a round in progress: `progress/round-000011/`."""
RANKS_FOLDER = "ranks"
"""Which process on which host each rank of the last attempt is: `ranks/0001.json`."""
GROWING_FILES = (METRICS_FILE, LEDGER_FILE, TRAFFIC_FILE, MEMORY_FILE, TIMELINE_FILE)
_MAX_SAME_SECOND = 1000
_MAX_OBJECT_BYTES = 256 << 20  # a summary grows with the rounds


@dataclass(frozen=True)
class RunFolder:
    """Paths and writers of one run. Holds no open file, so any rank may make one.

    Attributes:
        path: The folder.
        status_folder: Where the status goes: the run's own folder, also for a comparison's subfolder.
    """

    path: Path
    status_folder: Path

    @classmethod
    def create(cls, config: RunConfig, output: str | Path, name: str) -> RunFolder:
        """Make a new folder `<output>/<name>-<YYYYmmdd-HHMMSS>[-k]` with the resolved config in it.

        Args:
            config: The run; written as config.yaml.
            output: Parent folder; made if missing.
            name: Start of the folder's name.

        Raises:
            LaunchError: If the folder cannot be made.
        """
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
            folder = cls.open(_make_new(Path(output), f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
            folder.log_folder.mkdir()
            folder.write_config(config)
        except OSError as error:
            reason = f"no run folder can be made there ({error.strerror}). Choose another output."
            raise LaunchError(f"{output}: {reason}") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return a folder that exists.

        Raises:
            LaunchError: If there is none.
        """
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise LaunchError(f"{folder}: no such run folder. Name one that `heterotune run` or `submit` made.")
        return cls(folder, folder)

    def subfolder(self, name: str) -> RunFolder:
        """Return the folder of a comparison inside this run; its status stays the run's status."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        return RunFolder(path, self.status_folder)

    @property
    def config_path(self) -> Path:
        """The resolved run."""
        return self.path / CONFIG_FILE

    @property
    def log_folder(self) -> Path:
        """One log per rank, and the launcher's."""
        return self.path / "logs"

    @property
    def launcher_log(self) -> Path:
        """Standard output and error of mpirun and of all that did not go into a rank's log."""
        return self.log_folder / "launcher.log"

    def log_path(self, mpi_rank: int) -> Path:
        """Return the log of a rank."""
        return self.log_folder / f"rank-{mpi_rank:04d}.log"

    def write_presence(self, mpi_rank: int, process: Mapping[str, Any]) -> None:
        """Say which process a rank of this attempt is, for `heterotune status`; without it everything else works."""
        with suppress(OSError):
            (self.path / RANKS_FOLDER).mkdir(exist_ok=True)
            self.write_json_atomic(f"{RANKS_FOLDER}/{mpi_rank:04d}.json", process)

    def read_presences(self) -> list[dict[str, Any]]:
        """Return which processes the ranks of the last attempt were, in rank order."""
        found = (_read_object(path) for path in sorted((self.path / RANKS_FOLDER).glob("*.json")))
        return [process for process in found if process is not None]

    def write_config(self, config: RunConfig, facts: Mapping[str, object] | None = None) -> None:
        """Write the resolved run; `facts` (versions, commit, what "auto" became) go above it as comments."""
        lines = [f"# {key}: {value}\n" for key, value in (facts or {}).items()]
        _write_atomic(self.config_path, "".join(lines) + dump_run(config))

    def append_metrics(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to metrics.jsonl; a value that is not finite becomes null."""
        self._append(METRICS_FILE, entries)

    def append_ledger(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to ledger.jsonl, which is there from now on, even if nothing was ever sent."""
        self._append(LEDGER_FILE, entries)
        (self.path / LEDGER_FILE).touch()

    def append_traffic(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to traffic.jsonl."""
        self._append(TRAFFIC_FILE, entries)

    def append_memory(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to memory.jsonl."""
        self._append(MEMORY_FILE, entries)

    def append_timeline(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to timeline.jsonl."""
        self._append(TIMELINE_FILE, entries)

    def read_memory(self) -> Iterator[dict[str, Any]]:
        """Go through the lines of memory.jsonl."""
        path = self.path / MEMORY_FILE
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def write_spans(self, round_number: int, by_rank: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Replace spans.json by a round's spans, rank after rank."""
        _write_atomic(self.path / SPANS_FILE, json.dumps({"round": round_number, "ranks": by_rank}))

    def begin_attempt(self, *, resume: bool) -> None:
        """Make the folder ready for a job: nothing of an earlier one's failure stays (root only).

        Raises:
            LaunchError: If a run has been here and is not to be resumed.
        """
        if not resume and any((self.path / name).exists() for name in GROWING_FILES):
            raise LaunchError(f"{self.path} already holds a run. Resume it, or give the new run another folder.")
        (self.path / FAILURE_FILE).unlink(missing_ok=True)
        for path in (self.path / RANKS_FOLDER).glob("*.json"):
            path.unlink()

    def positions(self) -> dict[str, int]:
        """Return the length in bytes of every file that grows; 0 where there is none."""
        paths = {name: self.path / name for name in GROWING_FILES}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def cut_back(self, positions: Mapping[str, int]) -> None:
        """Shorten the files that grow to what they were; a file that is not named becomes empty.

        Raises:
            CheckpointError: If a file is shorter than that: its lines are gone, and zeros are no lines.
        """
        for name in GROWING_FILES:
            path, position = self.path / name, positions.get(name, 0)
            num_bytes = path.stat().st_size if path.exists() else 0
            if type(position) is not int or not 0 <= position <= num_bytes:
                told = f"it has {num_bytes} bytes and had {position!r:.40} when the checkpoint was written"
                raise CheckpointError(f"{path}: {told}. Bring the file back, or remove the newest checkpoint.")
            if path.exists():
                os.truncate(path, position)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; what was written there gets its name when the block ends well."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # what a new file has here; safetensors lets nobody else read its own
            yield temporary
            temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_json_atomic(self, name: str, content: Any) -> None:
        """Write a JSON file so that a reader sees the old one or the new one, never a part."""
        _write_atomic(self.path / name, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        self.write_json_atomic(SUMMARY_FILE, summary)

    def write_data(self, overview: Mapping[str, Any]) -> None:
        """Write data.json: who holds what."""
        self.write_json_atomic(DATA_FILE, overview)

    def find_summary(self) -> dict[str, Any] | None:
        """Return summary.json, None if there is none."""
        return _read_object(self.path / SUMMARY_FILE)

    def read_summary(self) -> dict[str, Any]:
        """Return summary.json.

        Raises:
            LaunchError: If the run left none.
        """
        summary = self.find_summary()
        if summary is None:
            raise LaunchError(f"{self.path}: the run left no {SUMMARY_FILE}. See {self.log_folder}.")
        return summary

    def status(self, status: Mapping[str, Any]) -> None:
        """Replace the run's status, which the live display reads."""
        _write_atomic(self.status_folder / STATUS_FILE, json.dumps(_finite(status)))

    def read_status(self) -> dict[str, Any] | None:
        """Return the last status, or None before the first one."""
        return _read_object(self.status_folder / STATUS_FILE)

    def record_failure(self, mpi_rank: int | None, text: str) -> bool:
        """Keep the traceback of the rank that fails first.

        Args:
            mpi_rank: Who failed; None = not a rank, but what started them.
            text: Its traceback.

        Returns:
            Whether this was the first; later ones are dropped.
        """
        content = json.dumps({"mpi_rank": mpi_rank, "text": text})
        mine = _write_temporary(self.status_folder / FAILURE_FILE, content)
        try:
            os.link(mine, self.status_folder / FAILURE_FILE)  # atomic, complete, and refused if another was first
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def read_failure(self) -> dict[str, Any] | None:
        """Return {"mpi_rank", "text"} of what failed first, or None; "mpi_rank" is null for the ranks' launcher."""
        return _read_object(self.status_folder / FAILURE_FILE)

    def first_failure_text(self) -> str | None:
        """Return who failed first and its traceback, or None if no rank left one."""
        failure = self.read_failure()
        if failure is None:
            return None
        text, who = failure["text"].rstrip(), f"MPI rank {failure['mpi_rank']}"
        names_it = failure["mpi_rank"] is None or text.startswith(who)
        return text if names_it else f"{who} failed:\n{text}"

    def _append(self, name: str, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(_finite(entry), allow_nan=False) + "\n" for entry in entries)
        if lines:
            with open(self.path / name, "ab", buffering=0) as file:
                file.write(lines.encode())


def _make_new(output: Path, stem: str) -> Path:
    """Make a folder that did not exist; `-2`, `-3`, ... tell runs of the same second apart."""
    for number in range(1, _MAX_SAME_SECOND):
        path = output / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise LaunchError(f"{output / stem}: {_MAX_SAME_SECOND} runs of this name began in one second.")


def _write_temporary(path: Path, text: str) -> Path:
    """Write beside `path`, under a name that no other process uses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
    except OSError:  # a full disk must not keep the half of it
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_atomic(path: Path, text: str) -> None:
    os.replace(_write_temporary(path, text), path)


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(read_small_text(path, _MAX_OBJECT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise LaunchError(f"{path}: cannot be read as JSON ({error}). Remove it.") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{path}: holds no JSON object. Remove it.")
    return content


def _finite(value: Any) -> Any:
    """JSON knows no NaN or infinity; they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
