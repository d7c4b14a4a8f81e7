"""Tensors that never leave a client (scope "client"), kept between rounds as one file a client in the run folder.

Any rank may train a client in any round, so its own tensors live where all ranks can read them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.checkpoint import link_files


class ClientStore:
    """Personal tensors on disk. Layouts without any cost nothing."""

    def __init__(self, folder: Path, *, run_seed: int) -> None:
        self._folder = folder
        self._run_seed = run_seed

    def load(self, client_id: int, layout: AdapterLayout) -> dict[str, Tensor]:
        """Return a client's own tensors by name; their first values if it never took part."""
        personal = [spec for spec in layout.tensors if spec.scope == "client"]
        if not personal:
            return {}
        path = self._path(client_id)
        if path.exists():
            return load_file(path)
        return {
            spec.name: torch.from_numpy(
                initial_value(spec, run_seed=self._run_seed, client_id=client_id, name=spec.name)
            )
            for spec in personal
        }

    def save(self, client_id: int, layout: AdapterLayout, values_P: Tensor) -> None:
        """Keep a client's own tensors; the file appears under its name only when it is whole."""
        personal = [spec for spec in layout.tensors if spec.scope == "client"]
        if not personal:
            return
        tensors = {spec.name: values_P[layout.columns[spec.name]].reshape(spec.shape).clone() for spec in personal}
        path = self._path(client_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file(tensors, unfinished)
        os.replace(unfinished, path)

    def replace_with(self, saved: Path | None) -> None:
        """Forget all clients and take those of a checkpoint's folder. One process calls this, before anybody trains."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if saved is not None and any(saved.iterdir()):
            self._folder.mkdir(parents=True)
            link_files(saved, self._folder)

    def _path(self, client_id: int) -> Path:
        return self._folder / f"client-{client_id:06d}.safetensors"
