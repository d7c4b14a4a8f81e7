"""The round in progress: what its finished chunks brought is saved while the others train, and taken over on resume.

A chunk's whole contribution is the share in an exact sum of its clients that count, who counts, all clients' lines in
ledger and metrics, and their own tensors. Integers add up to the same sum in any grouping, so a job may take over what
an earlier one finished, on any number of ranks, and train the rest: the round ends with the bits of one that was never
interrupted.

Every rank saves for itself, in a thread, what it has finished in this round, at most once in `every_seconds`: what is
lost is the chunk in progress and what was finished in the last so many seconds. So rounds that are shorter cost
nothing, and a chunk that takes longer than that is always saved when it is finished. Only a round whose start is saved
as a checkpoint is recorded, because nobody could go on with another one.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from heterotune.aggregation.exact import ExactSum
from heterotune.background import Background
from heterotune.checkpoint import link_file
from heterotune.client_store import ClientStore
from heterotune.collective.channel import ROOT, Channel
from heterotune.errors import CheckpointError
from heterotune.file_digests import Description, describe, to_disk
from heterotune.fleet.chunks import Chunk
from heterotune.journal import Journal
from heterotune.progress_record import ChunkKey, Record, RoundStart, clients_folder, read_record, write_record
from heterotune.round_notes import RoundNotes
from heterotune.run_folder import PROGRESS_FOLDER

LOG = logging.getLogger(__name__)


class RoundProgress:
    """What this rank finished in the round in progress, and at the root what an earlier job did."""

    def __init__(
        self,
        journal: Journal,
        store: ClientStore,
        background: Background,
        *,
        num_elements: Sequence[int],
        every_seconds: float | None,
        now_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing finished.

        Args:
            journal: This rank's.
            store: The clients' own tensors.
            background: Where files are written.
            num_elements: What a client of each model type sends.
            every_seconds: Shortest time between two writes; None = never write.
            now_seconds: The clock; another one only in tests.
        """
        self._journal, self._store, self._background = journal, store, background
        self._num_elements = num_elements
        self._every_seconds, self._now_seconds = every_seconds, now_seconds
        self._resumed_round: int | None = None
        self._round: _Round | None = None
        self._taken_over: list[Record] = []
        self._saved_at = 0.0

    @property
    def is_recorded(self) -> bool:
        """Whether the chunks of this round are saved."""
        return self._round is not None

    def go_on_after(self, saved_round: int | None) -> None:
        """Keep what was finished in the round after a checkpoint, None = nothing. Every rank must call this."""
        self._resumed_round = None if saved_round is None else saved_round + 1
        if self._journal.is_root:
            for folder in (self._journal.folder / PROGRESS_FOLDER).glob("round-*"):
                if saved_round is None or folder.name != progress_name(saved_round + 1):
                    shutil.rmtree(folder)

    def forget_through(self, round_number: int) -> None:
        """Remove the records of rounds that a checkpoint has now. One process calls this."""
        for folder in (self._journal.folder / PROGRESS_FOLDER).glob("round-*"):
            if folder.name <= progress_name(round_number):
                shutil.rmtree(folder)

    def begin(
        self, round_number: int, start: Callable[[], RoundStart], chunks: Sequence[Chunk], *, is_saved: bool
    ) -> list[Chunk]:
        """Begin a round; returns the chunks that no earlier job finished. Every rank must call this.

        Args:
            round_number: The round.
            start: Says what clients train from; asked only if something is saved or taken over, for it takes time.
            chunks: The round's, the same on every rank.
            is_saved: Whether there is a checkpoint of that.
        """
        folder = self._journal.folder / PROGRESS_FOLDER / progress_name(round_number)
        places = {_key(chunk): place for place, chunk in enumerate(chunks)}
        self._round = _Round(folder, cache(start), places) if is_saved and self._every_seconds is not None else None
        self._saved_at = self._now_seconds()
        if round_number != self._resumed_round:
            return list(chunks)
        if self._journal.is_root:
            self._taken_over = self._take_over(folder, start(), set(places))
        done = _agree_on(self._taken_over, self._journal.channel)
        self._store.refresh()
        left = [chunk for chunk in chunks if _key(chunk) not in done]
        if done:
            told = f"{len(chunks) - len(left)} of its {len(chunks)} chunks were finished before"
            LOG.info("%s: round %d: %s", self._journal.strategy, round_number, told)
        return left

    def chunk_done(self, chunk: Chunk, sums: Mapping[int, ExactSum]) -> None:
        """Note a chunk whose update is in its sum, and save what is finished if it is time to.

        Raises:
            CheckpointError: If an earlier write failed.
        """
        if self._round is None:
            return
        self._round.finished.append(_key(chunk))
        is_due = self._now_seconds() - self._saved_at >= self._every_seconds
        if is_due and not self._background.is_busy:
            self.save(sums)

    def save(self, sums: Mapping[int, ExactSum]) -> None:
        """Save what this rank has finished in this round, in the background.

        Raises:
            CheckpointError: If an earlier write failed.
        """
        if self._round is None or len(self._round.finished) == self._round.num_saved:
            return
        self._saved_at = self._now_seconds()
        # The thread gets copies: the next chunk is added to the sums while it writes.
        arrays = {place: exact.as_array().copy() for place, exact in sums.items() if exact.num_clients}
        task = self._round.writing(arrays, self._journal.round_notes(), self._store)
        self._background.start(task)

    def wait(self) -> None:
        """Return when all that was to be saved is on disk.

        Raises:
            CheckpointError: If something could not be written.
        """
        self._background.wait()

    def num_left(self, chunks: Sequence[Chunk]) -> int:
        """Return how many of this rank's chunks it has not finished; 0 where none are recorded."""
        return 0 if self._round is None else len(chunks) - len(self._round.finished)

    def end(self, sums: Mapping[int, ExactSum]) -> None:
        """Add what an earlier job finished to this rank's sums and journal, when all is trained. Every rank calls this.

        Raises:
            CheckpointError: If something could not be written.
        """
        self._background.wait()
        self._round = None
        for record in self._taken_over:
            for place in {place for place, _ in record.chunks}:
                sums[place].merge(_as_sum(record.sums[place], self._num_elements[place]))
            self._journal.take_over(record.notes)
        self._taken_over = []

    def _take_over(self, folder: Path, start: RoundStart, keys: set[ChunkKey]) -> list[Record]:
        """Return the records that count, with their clients' files in the store; removes all others."""
        taken: list[Record] = []
        for path in sorted(folder.glob("first-*"), reverse=True):  # of one rank the one with most chunks is first
            try:
                record = read_record(path)
                self._check_fits(path, record, start, keys)
            except (CheckpointError, OSError) as error:
                LOG.warning("%s It is left out.", error)
                path.unlink(missing_ok=True)
                continue
            keys = keys - set(record.chunks)
            self._store.folder.mkdir(parents=True, exist_ok=True)
            for name in record.client_files:
                link_file(clients_folder(folder) / name, self._store.folder / name)
            taken.append(record)
        return taken

    def _check_fits(self, path: Path, record: Record, start: RoundStart, keys: set[ChunkKey]) -> None:
        """Refuse a record of another round or run, or of chunks that are not to be trained."""
        if record.start != start:
            raise CheckpointError(f"{path}: trained from another state than the checkpoint's.")
        if not set(record.chunks) <= keys:
            raise CheckpointError(f"{path}: has chunks that this round has not, or that another file has.")
        for place in {place for place, _ in record.chunks}:
            array, wanted = record.sums.get(place), ExactSum(self._num_elements[place]).as_array()
            fits = array is not None and (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
            if not fits or _as_sum(array, self._num_elements[place]).num_clients != record.num_counted(place):
                raise CheckpointError(f"{path}: its sums do not fit its chunks.")


class _Round:
    """The chunks that this rank has finished of a round, and the file that says so."""

    def __init__(self, folder: Path, start: Callable[[], RoundStart], places: Mapping[ChunkKey, int]) -> None:
        self.folder, self.start, self.places = folder, start, places
        self.finished: list[ChunkKey] = []
        self.num_saved = 0
        self._client_files: dict[str, Description] = {}
        self._path: Path | None = None

    def writing(self, arrays: Mapping[int, np.ndarray], notes: RoundNotes, store: ClientStore) -> Callable[[], None]:
        """Return what writes all that is finished by now."""
        start, chunks = self.start(), tuple(self.finished)
        self.num_saved = len(chunks)
        client_files = store.flush()  # by this thread, which writes to the store

        def write() -> None:
            try:
                self._keep_files(client_files)
                record = Record(start, chunks, arrays, notes, dict(self._client_files))
                before, self._path = self._path, write_record(self.folder, record, first=self.places[chunks[0]])
                if before is not None:
                    before.unlink()
            except (OSError, SafetensorError) as error:
                told = f"{self.folder}: what is finished of the round cannot be written ({error})"
                raise CheckpointError(f"{told}. Free space or make it writable, then go on with --resume.") from error

        return write

    def _keep_files(self, paths: Iterable[Path]) -> None:
        """Give the new files with clients' states a second name, which stays when the store brings files together."""
        kept = clients_folder(self.folder)
        kept.mkdir(parents=True, exist_ok=True)
        for path in (path for path in paths if path.name not in self._client_files):
            link_file(path, kept / path.name)
            to_disk(kept / path.name)
            self._client_files[path.name] = describe(kept / path.name)
        to_disk(kept)


def progress_name(round_number: int) -> str:
    """Return the name of the folder with a round's records."""
    return f"round-{round_number:06d}"


def _key(chunk: Chunk) -> ChunkKey:
    return chunk.model_type, tuple(client.client_id for client in chunk.clients)


def _as_sum(array: np.ndarray, num_elements: int) -> ExactSum:
    """Return the exact sum whose memory this was."""
    exact = ExactSum(num_elements)
    exact.as_array()[:] = array
    return exact


def _agree_on(records: Iterable[Record], channel: Channel) -> set[ChunkKey]:
    """Return the root's finished chunks on every rank."""
    mine = [key for record in records for key in record.chunks] if channel.mpi_rank == ROOT else []
    told = json.loads(channel.broadcast_bytes(json.dumps(mine).encode()))
    return {(place, tuple(client_ids)) for place, client_ids in told}
