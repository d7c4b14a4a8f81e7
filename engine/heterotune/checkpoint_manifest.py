"""What a checkpoint says of itself, and whether that is so. Nothing in it is trusted: anybody may have written it.

No name in a manifest is ever opened. The folder is listed, links and all else that is no regular file are refused, and
what is there must be exactly what the manifest names, with its length and digest.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from heterotune.errors import CheckpointError
from heterotune.file_digests import describe
from heterotune.plain_files import read_small_text
from heterotune.run_folder import MANIFEST_FILE

_MAX_MANIFEST_BYTES = 128 << 20  # with the summary's facts of all earlier rounds


@dataclass(frozen=True)
class Manifest:
    """The facts of a checkpoint whose files are whole."""

    round_number: int
    facts: Mapping[str, Any]


class _Named(dict):
    """A dict that names its file when something is looked for and is not there."""

    def __init__(self, content: Mapping[str, Any], file: Path) -> None:
        super().__init__(content)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.file}: holds no {key!r}; it is not of this run, or of another version.")


def read_manifest(path: Path, version: int) -> Manifest:
    """Read a checkpoint's manifest and compare every file with it.

    Args:
        path: The checkpoint's folder.
        version: The only version of the format that is read.

    Raises:
        CheckpointError: If the manifest is unreadable or of another version, or a file is missing, changed, or one that
            the manifest does not name; names it.
    """
    manifest = _read_json(path)
    if manifest.get("version") != version:
        given = manifest.get("version")
        raise CheckpointError(f"{path}: written in version {given!r:.40} of the format; this program reads {version}.")
    files, facts, round_number = (manifest.get(key) for key in ("files", "facts", "round"))
    if not isinstance(files, dict) or not isinstance(facts, dict) or type(round_number) is not int:
        raise CheckpointError(f"{path}: {MANIFEST_FILE} cannot be read (files, facts or round are not what they were).")
    if path.name != f"round-{round_number:06d}":
        raise CheckpointError(f"{path}: {MANIFEST_FILE} is of round {round_number}.")
    _check_facts(path, facts)
    _check_files(path, files)
    return Manifest(round_number, _Named(facts, path / MANIFEST_FILE))


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read a safetensors file of a run folder.

    Raises:
        CheckpointError: If it is damaged, no regular file, or, later, if a tensor is looked for that it lacks.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(f"{path}: not a regular file.")
        return _Named(load_file(path), path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}).") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.is_symlink():
            raise CheckpointError(f"{path}: is a link. Put the folder itself there.")
        manifest = json.loads(read_small_text(path / MANIFEST_FILE, _MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {MANIFEST_FILE} cannot be read ({error!r:.300}).") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: {MANIFEST_FILE} cannot be read (it holds no object).")
    return manifest


def _check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse facts of the wrong kind; who needs one that is missing names it."""
    for name, fits in _KINDS.items():
        if name in facts and not fits(facts[name]):
            raise CheckpointError(f"{path}: {MANIFEST_FILE} cannot be read ({name} is not what was written).")


def _check_files(path: Path, described: Mapping[str, Any]) -> None:
    found = dict(_listed(path))
    for name in sorted(described.keys() | found.keys()):
        if name not in described:
            raise CheckpointError(f"{path}: {name!r:.200} is there, but {MANIFEST_FILE} does not name it.")
        if name not in found or not _is_as_described(found[name], described[name]):
            raise CheckpointError(f"{path}: {name:.200} is missing or not what was written.")


def _listed(path: Path) -> Iterator[tuple[str, Path]]:
    """Go through a checkpoint's files by the names they have in a manifest; hidden ones are the file system's own."""
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            file = Path(folder) / name
            mode, told = os.lstat(file).st_mode, file.relative_to(path).as_posix()
            if stat.S_ISDIR(mode) or name.startswith(".") or told == MANIFEST_FILE:
                continue
            if not stat.S_ISREG(mode):
                raise CheckpointError(f"{path}: {told} is a link or no regular file; a checkpoint holds none.")
            yield told, file


def _is_as_described(file: Path, described: Any) -> bool:
    if not isinstance(described, dict) or described.get("bytes") != file.stat().st_size:
        return False  # before a digest is taken, which may take hours
    return describe(file) == described


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 1 for item in value)


def _are_seconds(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return numbers and all(math.isfinite(item) and item >= 0 for item in value)


_KINDS = {
    "strategy": lambda value: isinstance(value, str),
    "config": lambda value: isinstance(value, dict),
    "journal": lambda value: isinstance(value, dict),
    "chunk_clients": _are_counts,
    "pass_seconds": _are_seconds,
}
