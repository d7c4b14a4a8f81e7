"""Scalars for TensorBoard while a run goes on: RUN/tensorboard/STRATEGY, one run there for each strategy.

Events are written with TensorBoard's own record format and messages, but neither through its queue and thread nor
through `torch.utils.tensorboard`: what is flushed after a round is on disk, an error comes up where it happens, and
an installed TensorFlow is not imported. TensorBoard itself is imported when the first scalar is written.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
_NO_LABELS = ("round", "name", "value", "unit")
_LEFT_OUT = {"client", "label"}
_FORMAT_VERSION = "brain.Event:2"


class TensorboardScalars:
    """Writes metrics as scalars; a tag is a metric's name and what else identifies it, e.g. `loss/eval/small`."""

    def __init__(self, folder: Path, *, first_round: int) -> None:
        """Open nothing yet.

        Args:
            folder: Where event files go; made when the first scalar comes.
            first_round: The first round that is written from here on. What an earlier job wrote of it and of later ones
                no longer counts: TensorBoard drops it when it reads on.
        """
        self._folder, self._first_round = folder, first_round
        self._file: Any = None
        self._records: Any = None

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics; those of clients and classes are left to metrics.jsonl, or they would drown all others."""
        scalars = [(tag_of(entry), entry["round"], entry["value"]) for entry in entries if not entry.keys() & _LEFT_OUT]
        if not scalars:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        for tag, round_number, value in scalars:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            self._write(step=round_number, summary=summary)

    def flush(self) -> None:
        """Bring what was written to the disk."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Write nothing more."""
        if self._file is not None:
            self._file.close()
        self._file = self._records = None

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._records is None:
            self._open()
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def _open(self) -> None:
        """Begin an event file, and say what of earlier files no longer counts."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = _new_file(self._folder).open("ab")
        self._records = RecordWriter(self._file)
        self._write(file_version=_FORMAT_VERSION)
        self._write(step=self._first_round, session_log=SessionLog(status=SessionLog.START))


def tag_of(entry: Mapping[str, Any]) -> str:
    """Return the tag of a metric: its name, then its labels in the order in which they stand."""
    labels = [_label(key, value) for key, value in entry.items() if key not in _NO_LABELS]
    return "/".join([entry["name"], *labels])


def _label(key: str, value: Any) -> str:
    return f"rank-{value}" if key == "mpi_rank" else str(value)


def _new_file(folder: Path) -> Path:
    """Return a name for an event file that comes after those that are there: TensorBoard reads them in that order."""
    times = [int(part) for path in _event_files(folder) if (part := path.name.split(".")[3]).isdigit()]
    started = max([int(time.time()), *(earlier + 1 for earlier in times)])
    return folder / f"events.out.tfevents.{started:010d}.{socket.gethostname()}.{os.getpid()}"


def _event_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))
