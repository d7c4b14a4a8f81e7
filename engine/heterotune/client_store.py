"""What a client keeps between rounds, as files of its own in the run folder: tensors that never leave it (scope
"client"), and what a wire with error feedback has not sent yet.

Any rank may train a client in any round, so its own tensors live where all ranks can read them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.checkpoint import link_files
from heterotune.checkpoint_manifest import read_tensors
from heterotune.errors import CheckpointError

CLIENTS_FOLDER = "clients"
"""Where they are in a strategy's folder and in a checkpoint."""
_RESIDUAL = "residual"


class ClientStore:
    """Clients' files. Layouts without personal tensors cost nothing, nor do wires without error feedback."""

    def __init__(self, folder: Path, *, run_seed: int) -> None:
        self.folder = folder
        self._run_seed = run_seed

    def load(self, client_id: int, layout: AdapterLayout) -> dict[str, Tensor]:
        """Return a client's own tensors by name; their first values if it never took part."""
        if not layout.personal:
            return {}
        path = self._path(client_id)
        if os.path.lexists(path):
            return _checked(read_tensors(path), {spec.name: spec.shape for spec in layout.personal}, path)
        return {
            spec.name: torch.from_numpy(
                initial_value(spec, run_seed=self._run_seed, client_id=client_id, name=spec.name)
            )
            for spec in layout.personal
        }

    def save(self, client_id: int, layout: AdapterLayout, values_P: Tensor) -> None:
        """Keep a client's own tensors; the file appears under its name only when it is whole.

        Values that are not finite are not kept: the client would never recover from them.
        """
        if not layout.personal:
            return
        tensors = {
            spec.name: values_P[layout.columns[spec.name]].reshape(spec.shape).clone() for spec in layout.personal
        }
        if not all(value.isfinite().all() for value in tensors.values()):
            return
        _replace(self._path(client_id), tensors)

    def load_residual(self, client_id: int, num_elements: int) -> Tensor:
        """Return what a client has not sent yet, float32, shape (elements,); zeros if it never took part."""
        path = self._residual_path(client_id)
        if not os.path.lexists(path):
            return torch.zeros(num_elements)
        return _checked(read_tensors(path), {_RESIDUAL: (num_elements,)}, path)[_RESIDUAL]

    def save_residual(self, client_id: int, residual_P: Tensor) -> None:
        """Keep what a client has not sent yet, for its next update."""
        _replace(self._residual_path(client_id), {_RESIDUAL: residual_P})

    def replace_with(self, saved: Path | None) -> None:
        """Forget all clients and take those of a checkpoint's folder. One process calls this, before anybody trains."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if saved is not None and any(saved.iterdir()):
            self.folder.mkdir(parents=True)
            link_files(saved, self.folder)

    def paths(self, client_id: int) -> tuple[Path, ...]:
        """Return where all of a client's files are, those that it has."""
        return tuple(path for path in (self._path(client_id), self._residual_path(client_id)) if path.exists())

    def _path(self, client_id: int) -> Path:
        return self.folder / f"client-{client_id:06d}.safetensors"

    def _residual_path(self, client_id: int) -> Path:
        return self.folder / f"residual-{client_id:06d}.safetensors"


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file that appears under its name only when it is whole; one that a checkpoint links is not changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished)
    os.replace(unfinished, path)


def _checked(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: Path) -> dict[str, Tensor]:
    """Return a client's tensors if they have the shapes of this run; a file in a run folder may be anybody's."""
    for name, shape in shapes.items():
        value = tensors[name]
        if tuple(value.shape) != tuple(shape) or value.dtype != torch.float32:
            told = f"{name} is {tuple(value.shape)} {value.dtype}, not {tuple(shape)} torch.float32"
            raise CheckpointError(f"{path}: {told}; it is not of this run.")
    return {name: tensors[name] for name in shapes}
