"""Length and SHA-256 of files, and waiting until they are on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

Description = dict[str, Any]
"""{"bytes": length, "sha256": hex digest}: what a manifest says of a file."""


def describe(path: Path) -> Description:
    """Read a file and return its description."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def to_disk(path: Path) -> None:
    """Wait until a file or a folder's list of names is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not path.is_dir():
            os.fsync(handle)
            return
        with suppress(OSError):  # some network file systems refuse this for folders
            os.fsync(handle)
    finally:
        os.close(handle)


class KnownFiles:
    """Descriptions of files that are replaced, never changed in place, and of their other names (hard links).

    Most clients sit a round out, so most files of a checkpoint are those of the one before: they are neither read nor
    waited for again. A file is known by its inode, length and time of change; whoever reads a checkpoint reads all of
    it and compares.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Description] = {}

    def settle(self, paths: Iterable[Path]) -> list[Description]:
        """Return the descriptions of files, which are on disk then; only these are known the next time."""
        known = {}
        for path in paths:
            found = path.stat()
            key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if key in self._known:
                known[key] = self._known[key]
            else:
                to_disk(path)
                known[key] = describe(path)
        self._known = known
        return list(known.values())
