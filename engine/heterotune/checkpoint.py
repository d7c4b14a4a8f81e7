"""Checkpoints: what a simulation needs to go on after a round as if nothing had happened.

    RUN/checkpoints/round-000010/manifest.json       facts, and length and SHA-256 of every other file
                                 state.safetensors   common values, head frames, clients that have taken part
                                 clients/            clients' states, as hard links where the file system has them
                                 in_flight/          updates on their way under a virtual clock, in the same manner

A folder gets its name when all of it is on disk. Nothing in it is ever executed: safetensors and JSON only.

The facts are the run's configuration, the clients per chunk that were picked, what a pass costs, the lengths of
metrics, ledger and memory profile with all that the summary needs of earlier rounds, and which checkpoint is the best.
Some things outlive no round, so they are not here: the optimisers of clients begin anew in each, and who takes part and
which rows it draws come from (seed, round). What a server or a client keeps between rounds is tensors: of the server in
state.safetensors, of clients in `clients/`, in files that are never changed.

`round-000000` is the state before the first round. Chunks that were finished after the newest checkpoint are beside it,
in `progress/` (see round_progress.py).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from heterotune.checkpoint_manifest import read_manifest, read_tensors
from heterotune.errors import CheckpointError
from heterotune.file_digests import KnownFiles, to_disk
from heterotune.run_folder import CHECKPOINTS_FOLDER, MANIFEST_FILE

VERSION = 1
_STATE_FILE = "state.safetensors"
_CLIENTS = "clients"
IN_FLIGHT_FOLDER = "in_flight"
"""Updates on their way, in a strategy's folder and in a checkpoint."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round.

    Attributes:
        round_number: Rounds done.
        tensors: Name -> value on the CPU; who saves chooses the names.
        facts: What fits into JSON; floats keep their bits.
        clients: Folder with the clients' states as they were (see client_store.py); need not exist.
        in_flight: Folder with the updates on their way; need not exist. None = there are none.
    """

    round_number: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    clients: Path
    in_flight: Path | None = None

    def tensor(self, name: str, *, like: Tensor) -> Tensor:
        """Return a saved value that must have another's shape and dtype.

        Raises:
            CheckpointError: If it is not there, or differs.
        """
        value = self.tensors[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            told = f"{name} is {tuple(value.shape)} {value.dtype}, not {tuple(like.shape)} {like.dtype}"
            raise CheckpointError(f"{self.clients.parent}: {told}; it is not of this run.")
        return value


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the best and the newest ones, at once.

    Args:
        folder: The strategy's folder; checkpoints go into `checkpoints/` in it.
        checkpoint: What to keep; its client files must not be changed in place later, only replaced.
        keep: How many of the newest to keep, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: If it cannot be written, for example to a full disk; the one before it is still whole.
    """
    return begin_checkpoint(folder, checkpoint)(keep, KnownFiles())


def begin_checkpoint(folder: Path, checkpoint: Checkpoint) -> Callable[[int, KnownFiles], Path]:
    """Fix what a checkpoint holds; nobody may train meanwhile. Its files may be replaced as soon as this returns.

    Returns:
        What writes it, in a thread if one likes: takes how many to keep and what is known of client files, and returns
        and raises what `save_checkpoint` does.

    Raises:
        CheckpointError: As `save_checkpoint`.
    """
    unfinished = folder / CHECKPOINTS_FOLDER / f".{checkpoint_name(checkpoint.round_number)}.unfinished"
    facts = json.dumps(dict(checkpoint.facts))  # whoever saves goes on changing them
    with _errors_named(folder, checkpoint.round_number):
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / _CLIENTS).mkdir(parents=True)
        link_files(checkpoint.clients, unfinished / _CLIENTS)
        if checkpoint.in_flight is not None and checkpoint.in_flight.is_dir():
            (unfinished / IN_FLIGHT_FOLDER).mkdir()
            link_files(checkpoint.in_flight, unfinished / IN_FLIGHT_FOLDER)

    def write(keep: int, known: KnownFiles) -> Path:
        with _errors_named(folder, checkpoint.round_number):
            return _write(folder, unfinished, checkpoint, json.loads(facts), keep, known)

    return write


def best_checkpoint(
    folder: Path, before: Mapping[str, Any] | None, round_number: int, losses: Sequence[float]
) -> dict[str, Any] | None:
    """Return which checkpoint is the best by held-out loss: {"round", "heldout_loss"}, a fact of the next one.

    Args:
        folder: The strategy's folder.
        before: What was the best so far; it no longer is if somebody removed it. None = nothing was.
        round_number: The round that is saved next.
        losses: What each model type's adapter loses on held-out text after that; empty if it was not evaluated.
    """
    best = None if before is None else dict(before)
    if best is not None and not (_path(folder, best["round"]) / MANIFEST_FILE).is_file():
        best = None
    mean = sum(losses) / len(losses) if losses else math.nan
    if math.isfinite(mean) and (best is None or mean < best["heldout_loss"]):
        return {"round": round_number, "heldout_loss": mean}
    return best


def _path(folder: Path, round_number: int) -> Path:
    return folder / CHECKPOINTS_FOLDER / checkpoint_name(round_number)


def checkpoint_name(round_number: int) -> str:
    """Return the name of a round's checkpoint."""
    return f"round-{round_number:06d}"


@contextmanager
def _errors_named(folder: Path, round_number: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = f"the checkpoint of round {round_number} cannot be written ({error})"
        raise CheckpointError(f"{folder}: {told}. Free space or make it writable, then go on with --resume.") from error


def _write(
    folder: Path, unfinished: Path, checkpoint: Checkpoint, facts: dict[str, Any], keep: int, known: KnownFiles
) -> Path:
    save_file(dict(checkpoint.tensors), unfinished / _STATE_FILE)
    paths = list(_files(unfinished))
    files = {
        path.relative_to(unfinished).as_posix(): about for path, about in zip(paths, known.settle(paths), strict=True)
    }
    manifest = {"version": VERSION, "round": checkpoint.round_number, "facts": facts, "files": files}
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in (unfinished / MANIFEST_FILE, *(path for path in unfinished.iterdir() if path.is_dir()), unfinished):
        to_disk(path)
    target = unfinished.parent / checkpoint_name(checkpoint.round_number)
    shutil.rmtree(target, ignore_errors=True)  # a broken one of this round may stand there
    os.replace(unfinished, target)
    to_disk(target.parent)
    best = (facts.get("best") or {}).get("round")
    for old in _newest_first(folder)[keep:]:
        if best is None or old.name != checkpoint_name(best):
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
    manifest = read_manifest(path, VERSION)
    state = read_tensors(path / _STATE_FILE)
    return Checkpoint(manifest.round_number, state, manifest.facts, path / _CLIENTS, path / IN_FLIGHT_FOLDER)


def link_files(source: Path, target: Path) -> None:
    """Give the files of a folder a second name in another one, which exists; copy them where links are refused."""
    for path in _files(source):
        link_file(path, target / path.name)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, in the place of what has that name; copy it where links are refused."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS_FOLDER).glob("round-*"), reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
