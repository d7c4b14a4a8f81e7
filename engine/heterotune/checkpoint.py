"""Checkpoints: what a simulation needs to go on after a round as if nothing had happened.

    RUN/checkpoints/round-000010/manifest.json       facts, and length and SHA-256 of every other file
                                 state.safetensors   common values, head frames, clients that have taken part
                                 clients/            personal tensors, as hard links where the file system has them

A folder gets its name when all of it is on disk. Nothing in it is ever executed: safetensors and JSON only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heterotune.errors import CheckpointError
from heterotune.run_folder import CHECKPOINTS_FOLDER, MANIFEST_FILE

VERSION = 1
_STATE_FILE = "state.safetensors"
_CLIENTS = "clients"

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round.

    Attributes:
        round_number: Rounds done.
        tensors: Name -> value on the CPU; who saves chooses the names.
        facts: What fits into JSON; floats keep their bits.
        clients: Folder with the personal tensors as they were, one file a client; need not exist.
    """

    round_number: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    clients: Path


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest ones. One process calls this while nobody trains.

    Args:
        folder: The strategy's folder; checkpoints go into `checkpoints/` in it.
        checkpoint: What to keep; its client files must not be changed in place later, only replaced.
        keep: How many to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: If it cannot be written, for example to a full disk; the one before it is still whole.
    """
    try:
        return _save(folder, checkpoint, keep)
    except (OSError, SafetensorError) as error:
        told = f"the checkpoint of round {checkpoint.round_number} cannot be written ({error})"
        raise CheckpointError(f"{folder}: {told}. Free space or make it writable, then go on with --resume.") from error


def _save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    parent = folder / CHECKPOINTS_FOLDER
    target = parent / f"round-{checkpoint.round_number:06d}"
    unfinished = parent / f".{target.name}.unfinished"
    for leftover in (unfinished, target):  # a broken one of this round may stand there
        shutil.rmtree(leftover, ignore_errors=True)
    (unfinished / _CLIENTS).mkdir(parents=True)
    save_file(dict(checkpoint.tensors), unfinished / _STATE_FILE)
    link_files(checkpoint.clients, unfinished / _CLIENTS)
    files = {path.relative_to(unfinished).as_posix(): _described(path) for path in _files(unfinished)}
    manifest = {
        "version": VERSION,
        "round": checkpoint.round_number,
        "facts": dict(checkpoint.facts),
        "files": files,
    }
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in (*_files(unfinished), unfinished / _CLIENTS, unfinished):
        _to_disk(path)
    os.replace(unfinished, target)
    _to_disk(parent)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a folder that is whole, None if there is none; says in the log what it skipped.

    Raises:
        CheckpointError: If there are checkpoints, but none of them is whole: beginning again would lose work unasked.
    """
    problems = []
    for path in _newest_first(folder):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            LOG.warning("%s", error)
            problems.append(str(error))
    if problems:
        told = "\n".join(problems)
        raise CheckpointError(
            f"{told}\nNo checkpoint is left to go on from. Remove {folder / CHECKPOINTS_FOLDER} to begin again."
        )
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after comparing every file with its digest.

    Raises:
        CheckpointError: If a file is missing, was changed, or is of a version that this program does not know.
    """
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        version, round_number, facts, files = (manifest[key] for key in ("version", "round", "facts", "files"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {MANIFEST_FILE} cannot be read ({error!r}).") from error
    if version != VERSION:
        raise CheckpointError(f"{path}: written in version {version} of the format; this program reads {VERSION}.")
    for name, described in files.items():
        if not (path / name).is_file() or _described(path / name) != described:
            raise CheckpointError(f"{path}: {name} is missing or not what was written.")
    return Checkpoint(round_number, load_file(path / _STATE_FILE), facts, path / _CLIENTS)


def link_files(source: Path, target: Path) -> None:
    """Give the files of a folder a second name in another one, which exists; copy them where links are refused."""
    for path in _files(source):
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS_FOLDER).glob("round-*"), reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder's list of names is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse this for folders
            os.fsync(handle)
    finally:
        os.close(handle)
