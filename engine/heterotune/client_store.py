"""What a client keeps between rounds, out of core: tensors that never leave it (scope "client": personal branches,
control variates, momenta), and what a wire with error feedback has not sent yet.

    RUN/clients/personal-large-000012-r0003p0001.safetensors      see client_segments.py

Any rank may train a client in any round, so states live where all ranks can read them. What a rank's clients have
after a round goes into a few files with many clients each, which are never changed: a checkpoint links them, so what it
holds stays what it was, whatever happens later. Of several states of a client the latest round's counts. Once a round
the root removes files that no client needs any more and brings the smallest together, so there are few however long a
run is. In memory is which file has whom (9 bytes a client that took part), and at most `CACHE_BYTES` of states.

Assumed of a file system of several nodes: after a barrier every rank sees the files that another rank closed and
renamed before it, as on Lustre, GPFS and BeeGFS, and on NFS without cached look-ups (`lookupcache=none`, `actimeo=0`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.checkpoint import link_files
from heterotune.client_segments import MappedSegments, Segment, SegmentName, open_segment, read_name, write_segment
from heterotune.errors import CheckpointError

CLIENTS_FOLDER = "clients"
"""Where they are in a strategy's folder and in a checkpoint."""
CACHE_BYTES = 64 << 20
"""Most bytes of states that wait to be written, and that were read of files before these are unmapped."""
MOST_SEGMENTS = 16
"""More files of one kind and model type than these are brought together; half as many are left."""
PERSONAL, RESIDUAL = "personal", "residual"
_OLD_FILE = re.compile(r"(client|residual)-\d+\.safetensors\Z")

Shelf = tuple[str, str]
"""A kind of state, and the model type."""


class ClientStore:
    """Clients' states. Layouts without personal tensors cost nothing, nor do wires without error feedback."""

    def __init__(self, folder: Path, *, run_seed: int, mpi_rank: int = 0) -> None:
        """Look at what a folder holds; it need not exist.

        Args:
            folder: Where the files are, the same for all ranks.
            run_seed: For first values.
            mpi_rank: Who writes.
        """
        self.folder = folder
        self._run_seed, self._mpi_rank = run_seed, mpi_rank
        self._mapped = MappedSegments(CACHE_BYTES)
        self._segments: dict[Shelf, list[Segment]] = {}  # earlier rounds first
        self._waiting: dict[Shelf, dict[int, np.ndarray]] = {}
        self._waiting_bytes = 0
        self._round_number, self._num_parts = 0, 0
        self._written_now: list[Path] = []
        self._is_known = False  # whether the folder was looked at

    def load(self, client_id: int, layout: AdapterLayout) -> dict[str, Tensor]:
        """Return a client's own tensors by name; their first values if it never took part."""
        if not layout.personal:
            return {}
        values_P = self._find((PERSONAL, layout.model_type), client_id, _num_personal(layout))
        if values_P is None:
            return {
                spec.name: torch.from_numpy(
                    initial_value(spec, run_seed=self._run_seed, client_id=client_id, name=spec.name)
                )
                for spec in layout.personal
            }
        parts = values_P.split([spec.num_elements for spec in layout.personal])
        return {spec.name: part.reshape(spec.shape) for spec, part in zip(layout.personal, parts, strict=True)}

    def save(self, client_id: int, layout: AdapterLayout, values_P: Tensor) -> None:
        """Keep a client's own tensors of this round; on disk after `flush`.

        Values that are not finite are not kept: the client would never recover from them.
        """
        if not layout.personal:
            return
        own = torch.cat([values_P[layout.columns[spec.name]].flatten() for spec in layout.personal])
        if own.isfinite().all():
            self._keep((PERSONAL, layout.model_type), client_id, own)

    def load_residual(self, client_id: int, layout: AdapterLayout) -> Tensor:
        """Return what a client has not sent yet, float32, shape (elements,); zeros if it never took part."""
        found = self._find((RESIDUAL, layout.model_type), client_id, layout.num_travelling)
        return torch.zeros(layout.num_travelling) if found is None else found

    def save_residual(self, client_id: int, layout: AdapterLayout, residual_P: Tensor) -> None:
        """Keep what a client has not sent yet, for its next update; on disk after `flush`."""
        self._keep((RESIDUAL, layout.model_type), client_id, residual_P)

    def has_state(self, client_id: int) -> bool:
        """Return whether anything is kept of a client."""
        self._look()
        waits = any(client_id in waiting for waiting in self._waiting.values())
        return waits or any(
            segment.place_of(client_id) is not None for found in self._segments.values() for segment in found
        )

    def begin_round(self, round_number: int) -> None:
        """Note which round's states come now, and see what other ranks have written. Every rank must call this."""
        self._round_number, self._num_parts, self._written_now = round_number, 0, []
        self.refresh()

    def refresh(self) -> None:
        """See what other ranks have written; they have called `flush`, and a barrier was between."""
        self._mapped.let_go()
        self._is_known = False

    def flush(self) -> list[Path]:
        """Write what waits; returns what this rank wrote in this round, files that do not change any more."""
        for shelf, states in self._waiting.items():
            if states:
                client_ids = np.array(sorted(states), dtype=np.int64)
                rows = (states[client_id] for client_id in client_ids.tolist())
                name = self._new_name(shelf, self._round_number, f"r{self._mpi_rank:04d}p")
                self._add(shelf, self._written(name, client_ids, rows))
                self._written_now.append(self.folder / name.file_name)
        self._waiting, self._waiting_bytes = {}, 0
        return list(self._written_now)

    def tidy(self) -> None:
        """Remove files that no client needs, and bring small ones together. One process calls this, while none reads.

        The others `refresh` before they read again. Checkpoints keep the files that they link.
        """
        self.flush()
        self.refresh()
        self._look()
        for shelf, segments in self._segments.items():
            for segment in [each for each in segments if not each.num_live]:
                self._remove(shelf, segment)
            chosen = _to_bring_together(self._segments[shelf])
            if chosen:
                self._bring_together(shelf, chosen)

    def replace_with(self, saved: Path | None) -> None:
        """Forget all clients and take those of a checkpoint's folder. One process calls this, before anybody trains.

        Raises:
            CheckpointError: If the checkpoint has them in the way of an older version.
        """
        if saved is not None:
            _refuse_old_files(saved)
        shutil.rmtree(self.folder, ignore_errors=True)
        if saved is not None and any(saved.iterdir()):
            self.folder.mkdir(parents=True)
            link_files(saved, self.folder)
        self._segments, self._waiting, self._waiting_bytes = {}, {}, 0
        self.refresh()

    def _find(self, shelf: Shelf, client_id: int, num_elements: int) -> Tensor | None:
        """Return a client's latest state; None if there is none."""
        waiting = self._waiting.get(shelf, {}).get(client_id)
        if waiting is not None:
            return torch.from_numpy(waiting.copy())
        self._look()
        for segment in reversed(self._segments.get(shelf, [])):
            place = segment.place_of(client_id)
            if place is not None:
                if segment.num_elements != num_elements:
                    told = f"holds {segment.num_elements} elements of a client, not {num_elements}"
                    raise CheckpointError(f"{segment.path}: {told}; it is not of this run.")
                return self._mapped.row(segment, place)
        return None

    def _keep(self, shelf: Shelf, client_id: int, values_P: Tensor) -> None:
        """Let a client's state wait to be written, or write all that waits if that is much."""
        values = values_P.detach().cpu().to(torch.float32).numpy().copy()
        self._waiting.setdefault(shelf, {})[client_id] = values
        self._waiting_bytes += values.nbytes
        if self._waiting_bytes > CACHE_BYTES:
            self.flush()

    def _look(self) -> None:
        """Read which clients new files have, and forget files that are gone."""
        if self._is_known:
            return
        _refuse_old_files(self.folder)
        found = {name: path for path in _files(self.folder) if (name := read_name(path.name)) is not None}
        known = {segment.name: segment for segments in self._segments.values() for segment in segments}
        if known.keys() - found.keys():
            self._segments, known = {}, {name: known[name] for name in known.keys() & found.keys()}
            for segment in known.values():
                segment.is_live[:] = True
            new = sorted(found)
        else:
            new = sorted(found.keys() - known.keys())
        for name in new:
            self._add((name.kind, name.model_type), known.get(name) or open_segment(found[name], name))
        self._is_known = True

    def _add(self, shelf: Shelf, segment: Segment) -> None:
        """Take in a segment; it may be of an earlier round than some that are known."""
        segments = self._segments.setdefault(shelf, [])
        if segments and segments[0].num_elements != segment.num_elements:
            told = f"holds {segment.num_elements} elements of a client, not {segments[0].num_elements}"
            raise CheckpointError(f"{segment.path}: {told} as {segments[0].path.name}; it is not of this run.")
        for other in segments:
            if other.name < segment.name:
                other.supersede(segment.client_ids)
            else:
                segment.supersede(other.client_ids)
        segments.append(segment)
        segments.sort(key=lambda each: each.name)

    def _new_name(self, shelf: Shelf, round_number: int, prefix: str) -> SegmentName:
        """Return a name that no file has; of what was taken over from an earlier job some may be this rank's."""
        self._look()
        while True:
            name = SegmentName(round_number, f"{prefix}{self._num_parts:04d}", *shelf)
            self._num_parts += 1
            if not (self.folder / name.file_name).exists():
                return name

    def _written(self, name: SegmentName, client_ids: np.ndarray, rows: Iterator[np.ndarray]) -> Segment:
        first = next(rows)
        path = self.folder / name.file_name
        write_segment(path, client_ids, chain([first], rows), len(first))
        return Segment(path, name, client_ids, len(first))

    def _bring_together(self, shelf: Shelf, chosen: list[Segment]) -> None:
        """Write the live states of some segments into one, and remove them."""
        places = [np.flatnonzero(segment.is_live) for segment in chosen]
        client_ids = np.concatenate([segment.client_ids[own] for segment, own in zip(chosen, places, strict=True)])
        order = np.argsort(client_ids)
        owner_of = np.repeat(np.arange(len(chosen)), [len(own) for own in places])[order]
        place_of = np.concatenate(places)[order]
        pairs = zip(owner_of.tolist(), place_of.tolist(), strict=True)
        rows = (self._mapped.row(chosen[owner], place).numpy() for owner, place in pairs)
        name = self._new_name(shelf, max(segment.name.round_number for segment in chosen), "merged")
        together = self._written(name, client_ids[order], rows)
        for segment in chosen:
            self._remove(shelf, segment)
        self._add(shelf, together)

    def _remove(self, shelf: Shelf, segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._segments[shelf] = [each for each in self._segments[shelf] if each is not segment]
        self._mapped.let_go()


def _to_bring_together(segments: list[Segment]) -> list[Segment]:
    """Return the segments to write as one: those that are mostly superseded, and the smallest of too many."""
    mostly_old = [each for each in segments if 2 * each.num_live < len(each.client_ids)]
    num_more = len(segments) - MOST_SEGMENTS // 2 if len(segments) > MOST_SEGMENTS else 0
    smallest = sorted(segments, key=lambda each: (each.live_bytes, each.name))[: num_more + 1 if num_more else 0]
    return list({id(each): each for each in (*mostly_old, *smallest)}.values())


def _num_personal(layout: AdapterLayout) -> int:
    return sum(spec.num_elements for spec in layout.personal)


def _files(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in os.scandir(folder)) if folder.is_dir() else iter(())


def _refuse_old_files(folder: Path) -> None:
    """Refuse a folder with a file for each client.

    Raises:
        CheckpointError: If it has one.
    """
    for path in _files(folder):
        if _OLD_FILE.match(path.name):
            told = "clients' own tensors in a file each are of an older version, which this one does not read"
            raise CheckpointError(f"{path}: {told}. Finish the run with the version that began it, or begin anew.")
