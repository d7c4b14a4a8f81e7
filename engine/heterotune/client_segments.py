"""Files with the state of many clients, one row each: written once, mapped by whoever reads, never changed.

    clients/personal-large-000012-r0003p0001.safetensors      client_ids (K,) int64, values (K, P) float32

The name says of what kind the state is, of which model type, after which round, and who wrote it: rank and part, or
"merged". Of several files with a client's state the one of the latest round counts; in one round a client is in one.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heterotune.errors import CheckpointError

IDS, VALUES = "client_ids", "values"
_NAME = re.compile(r"([a-z]+)-([^/\0]+)-(\d{6,})-([a-z0-9]+)\.safetensors\Z")
_ALIGNMENT = 8


@dataclass(frozen=True, order=True)
class SegmentName:
    """What a segment's file name says; later rounds compare greater.

    Attributes:
        round_number: The round after which clients had this state.
        tag: Tells the files of one round apart.
        kind: What the state is.
        model_type: Whose.
    """

    round_number: int
    tag: str
    kind: str
    model_type: str

    @property
    def file_name(self) -> str:
        """The name in the folder."""
        return f"{self.kind}-{self.model_type}-{self.round_number:06d}-{self.tag}.safetensors"


def read_name(file_name: str) -> SegmentName | None:
    """Return what a file name says; None if it is no segment's."""
    found = _NAME.match(file_name)
    return None if found is None else SegmentName(int(found[3]), found[4], found[1], found[2])


@dataclass(eq=False)
class Segment:
    """A segment as it is used.

    Attributes:
        path: The file.
        name: What it says.
        client_ids: Sorted, int64 (K,).
        num_elements: P.
        is_live: Whether no later segment has the client, bool (K,).
    """

    path: Path
    name: SegmentName
    client_ids: np.ndarray
    num_elements: int
    is_live: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.is_live = np.ones(len(self.client_ids), dtype=bool)

    @property
    def num_live(self) -> int:
        """Clients whose latest state is here."""
        return int(self.is_live.sum())

    @property
    def live_bytes(self) -> int:
        """Bytes of these states."""
        return 4 * self.num_elements * self.num_live

    def place_of(self, client_id: int) -> int | None:
        """Return the row of a client; None if it is not here."""
        place = int(np.searchsorted(self.client_ids, client_id))
        return place if place < len(self.client_ids) and self.client_ids[place] == client_id else None

    def supersede(self, client_ids: np.ndarray) -> None:
        """Take note that a later segment has some clients."""
        places = np.searchsorted(self.client_ids, client_ids)
        inside = places < len(self.client_ids)
        places, wanted = places[inside], client_ids[inside]
        self.is_live[places[self.client_ids[places] == wanted]] = False


def open_segment(path: Path, name: SegmentName) -> Segment:
    """Read which clients a segment has; their state is read when it is asked for.

    Raises:
        CheckpointError: If it is no regular file, damaged, or holds something else.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(f"{path}: not a regular file.")
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if not names >= {IDS, VALUES}:
                told = f"holds no {min({IDS, VALUES} - names)!r}"
                raise CheckpointError(f"{path}: {told}; it is not of this run, or of another version.")
            shape, dtype = file.get_slice(VALUES).get_shape(), file.get_slice(VALUES).get_dtype()
            client_ids = file.get_tensor(IDS)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}).") from error
    fits = client_ids.dtype == np.int64 and client_ids.ndim == 1 and (np.diff(client_ids) > 0).all()
    if not fits or dtype != "F32" or len(shape) != 2 or shape[0] != len(client_ids):
        told = (
            f"{len(client_ids)} client ids {client_ids.dtype} and values {tuple(shape)} {dtype} are no clients' state"
        )
        raise CheckpointError(f"{path}: {told}.")
    return Segment(path, name, client_ids, shape[1])


def write_segment(path: Path, client_ids: np.ndarray, rows: Iterable[np.ndarray], num_elements: int) -> None:
    """Write a segment; it appears under its name only when it is whole.

    Args:
        path: The file.
        client_ids: Sorted, int64 (K,).
        rows: Their state in the same order, float32 (P,) each; taken one by one, so that few are in memory.
        num_elements: P.
    """
    num_clients = len(client_ids)
    ends = 8 * num_clients, 8 * num_clients + 4 * num_elements * num_clients
    about = {
        IDS: {"dtype": "I64", "shape": [num_clients], "data_offsets": [0, ends[0]]},
        VALUES: {"dtype": "F32", "shape": [num_clients, num_elements], "data_offsets": list(ends)},
    }
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(np.ascontiguousarray(client_ids, dtype="<i8").data)
        for row_P in rows:
            file.write(np.ascontiguousarray(row_P, dtype="<f4").data)
    os.replace(unfinished, path)


class MappedSegments:
    """The segments that are mapped now. What was read of them counts as resident, so they are let go in time."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with none.

        Args:
            most_bytes: What may have been read of the mapped files before all are let go.
        """
        self._most_bytes, self._read_bytes = most_bytes, 0
        self._values: dict[Path, object] = {}
        self._files: list[object] = []

    def row(self, segment: Segment, place: int) -> Tensor:
        """Return a client's state, a copy in memory, float32 (P,).

        Raises:
            CheckpointError: If the file is gone or damaged.
        """
        if self._read_bytes > self._most_bytes:
            self.let_go()
        if segment.path not in self._values:
            try:
                file = safe_open(segment.path, framework="pt")
                self._values[segment.path] = file.get_slice(VALUES)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{segment.path}: cannot be read as safetensors ({error}).") from error
            self._files.append(file)
        self._read_bytes += 4 * segment.num_elements
        return self._values[segment.path][place].clone()

    def let_go(self) -> None:
        """Unmap all; they are mapped again when they are needed."""
        self._values.clear()
        self._files.clear()
        self._read_bytes = 0


def latest_states(folder: Path) -> dict[tuple[str, str, int], np.ndarray]:
    """Return all clients' states of a folder, in memory: kind, model type and client id -> float32 (P,).

    Raises:
        CheckpointError: If a file is damaged.
    """
    found: dict[tuple[str, str, int], np.ndarray] = {}
    names = {name: path for path in folder.iterdir() if (name := read_name(path.name)) is not None}
    for name in sorted(names):
        segment = open_segment(names[name], name)
        with safe_open(segment.path, framework="numpy") as file:
            values_KP = file.get_tensor(VALUES)
        for client_id, values_P in zip(segment.client_ids.tolist(), values_KP, strict=True):
            found[name.kind, name.model_type, client_id] = values_P
    return found
