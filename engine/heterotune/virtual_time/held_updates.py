"""Updates on their way, as files of their own in the run folder: any rank may take one that another rank's client sent.

    RUN/in_flight/update-000012.safetensors     what arrives of client 12's update, decoded, float32

A client is on its way at most once, so its number names the file. Checkpoints link the files, as they do clients' own
tensors; a run that goes on has them back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from heterotune.checkpoint import IN_FLIGHT_FOLDER, link_files
from heterotune.checkpoint_manifest import read_tensors
from heterotune.errors import CheckpointError
from heterotune.run_folder import RunFolder

_UPDATE = "update"


class HeldUpdates:
    """The updates that no round has taken yet: an `Intake`."""

    def __init__(self, run_folder: RunFolder) -> None:
        self._run_folder = run_folder

    @property
    def folder(self) -> Path:
        """Where they are; there is none before the first."""
        return self._run_folder.path / IN_FLIGHT_FOLDER

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Keep the rows of some clients. What they weigh is known when they arrive."""
        for client_id, update_P in zip(client_ids, update_KP, strict=True):
            with self._run_folder.writing(f"{IN_FLIGHT_FOLDER}/{_name(client_id)}") as path:
                save_file({_UPDATE: update_P.float().contiguous()}, path)

    def read(self, client_id: int, num_elements: int) -> Tensor:
        """Return a client's update, float32, shape (elements,).

        Raises:
            CheckpointError: If it is missing, damaged, or of another size.
        """
        path = self.folder / _name(client_id)
        update_P = read_tensors(path)[_UPDATE]
        if update_P.shape != (num_elements,) or update_P.dtype != torch.float32:
            told = f"it holds {tuple(update_P.shape)} {update_P.dtype}, not {(num_elements,)} torch.float32"
            raise CheckpointError(f"{path}: {told}; it is not of this run.")
        return update_P

    def forget(self, client_ids: Iterable[int]) -> None:
        """Remove updates that nobody needs any more; one process calls this, when every rank has read its own."""
        for client_id in client_ids:
            (self.folder / _name(client_id)).unlink(missing_ok=True)

    def replace_with(self, saved: Path | None) -> None:
        """Forget all and take those of a checkpoint's folder. One process calls this, before anybody trains."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if saved is not None and saved.is_dir():
            self.folder.mkdir(parents=True)
            link_files(saved, self.folder)


def _name(client_id: int) -> str:
    return f"update-{client_id:06d}.safetensors"
