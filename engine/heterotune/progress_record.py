"""What one rank finished of a round, as one file: safetensors, named by its own SHA-256.

    RUN/progress/round-000004/first-000002-chunks-000003-<sha256>.safetensors
                              clients/     the new states of its clients, as in a checkpoint

"first" is the place in the round's plan of the first chunk in it, so two ranks never write the same name. Tensors: the
exact sums (int64, counters first), the ledger's entries as they travel, and all else as JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from heterotune.aggregation.quarantine import REASONS, Verdict
from heterotune.client_segments import read_name
from heterotune.collective.ledger import Ledger
from heterotune.errors import CheckpointError, WireError
from heterotune.file_digests import Description, describe, to_disk
from heterotune.round_notes import RoundNotes

VERSION = 3
_NAME = re.compile(r"first-\d{6}-chunks-(\d{6})-([0-9a-f]{64})\.safetensors\Z")

ChunkKey = tuple[int, tuple[int, ...]]
"""A chunk's model type and client ids."""


@dataclass(frozen=True)
class RoundStart:
    """What a round's clients train from; what was trained from anything else is of no use.

    Attributes:
        run_seed: The run's seed.
        round_number: The round.
        adapters_sha256: Of the common values at its start.
    """

    run_seed: int
    round_number: int
    adapters_sha256: str


@dataclass(frozen=True)
class Record:
    """What one rank finished.

    Attributes:
        start: What it trained from.
        chunks: What it trained, in this order.
        sums: Place of a model type -> the memory of the exact sum over these chunks' clients.
        notes: What the journal has of them.
        client_files: Name -> a file with its clients' states: personal tensors, what they owe. Empty where they have
            none.
    """

    start: RoundStart
    chunks: tuple[ChunkKey, ...]
    sums: Mapping[int, np.ndarray]
    notes: RoundNotes
    client_files: Mapping[str, Description]

    def num_counted(self, place: int) -> int:
        """Return how many clients of a model type are in its sum."""
        refused = {verdict.client_id for verdict in self.notes.verdicts if not verdict.counts}
        return sum(len(set(client_ids) - refused) for owner, client_ids in self.chunks if owner == place)


def write_record(folder: Path, record: Record, *, first: int) -> Path:
    """Write a record and wait until it is on disk; it gets its name when it is whole."""
    about = {
        "version": VERSION,
        "start": asdict(record.start),
        "chunks": record.chunks,
        "losses": record.notes.losses,
        "passes": record.notes.passes,
        "verdicts": [astuple(verdict) for verdict in record.notes.verdicts],
        "clients": record.client_files,
    }
    tensors = {f"sums/{place}": array for place, array in record.sums.items()}
    tensors["ledger"] = np.frombuffer(record.notes.ledger.to_bytes(), dtype=np.uint8)
    tensors["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    unfinished = folder / f".first-{first:06d}.unfinished"
    save_file(tensors, unfinished)
    to_disk(unfinished)
    digest = describe(unfinished)["sha256"]
    path = folder / f"first-{first:06d}-chunks-{len(record.chunks):06d}-{digest}.safetensors"
    os.replace(unfinished, path)
    to_disk(folder)
    return path


def read_record(path: Path) -> Record:
    """Read a record after comparing it with the digest in its name, and its client files with theirs.

    Raises:
        CheckpointError: If it is not what was written.
    """
    named = _NAME.match(path.name)
    if named is None or describe(path)["sha256"] != named[2]:
        raise CheckpointError(f"{path}: not what was written.")
    try:
        record = _parsed(load(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, WireError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error!r}).") from error
    for name, described in record.client_files.items():
        file = clients_folder(path.parent) / name
        if read_name(name) is None or not file.is_file() or describe(file) != described:
            raise CheckpointError(f"{path}: {name} is missing or not what was written.")
    return record


def clients_folder(folder: Path) -> Path:
    """Return where the files of clients are beside a round's records."""
    return folder / "clients"


def _parsed(tensors: Mapping[str, np.ndarray]) -> Record:
    about: dict[str, Any] = json.loads(tensors["about"].tobytes())
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']} of the format; this program reads {VERSION}")
    losses = [tuple(row) for row in about["losses"]]
    passes = [tuple(row) for row in about["passes"]]
    verdicts = [_verdict(*row) for row in about["verdicts"]]
    return Record(
        start=RoundStart(**about["start"]),
        chunks=tuple((place, tuple(client_ids)) for place, client_ids in about["chunks"]),
        sums={int(name.removeprefix("sums/")): a for name, a in tensors.items() if name.startswith("sums/")},
        notes=RoundNotes(losses, passes, Ledger.from_bytes(tensors["ledger"].tobytes()), verdicts),
        client_files=about["clients"],
    )


def _verdict(client_id: object, reason: object, detail: object, norm: object) -> Verdict:
    """Return a verdict if it is one: nothing in a file is trusted."""
    if type(client_id) is not int or reason not in (None, *REASONS):
        raise ValueError(f"a verdict on client {client_id!r} with the reason {reason!r}")
    if not isinstance(detail, str) or not (norm is None or isinstance(norm, float)):
        raise ValueError(f"a verdict on client {client_id} with the norm {norm!r}")
    return Verdict(client_id, reason, detail, norm)
