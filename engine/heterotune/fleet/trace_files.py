"""Traces that a run file names: found, and the same file when a run goes on as when it began."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from heterotune.errors import ConfigError
from heterotune.plain_files import in_home, is_plain_file


def trace_sha256(key: str, path: Path, kinds: Collection[str]) -> str:
    """Return the SHA-256 of a trace.

    Args:
        key: Of the run file, for the message.
        path: The file; "~" is the home folder.
        kinds: Ends that its name may have.

    Raises:
        ConfigError: If no such file is there.
    """
    file = in_home(path)
    if file.suffix not in kinds or not is_plain_file(file):
        raise ConfigError([f"{key} = {path}: no {' or '.join(kinds)} file is there. Correct the path."])
    return hashlib.sha256(file.read_bytes()).hexdigest()


def checked_trace(key: str, path: Path, kinds: Collection[str], wanted: str | None) -> Path:
    """Return where a trace is, if it has the SHA-256 that was written down; None = none was.

    Raises:
        ConfigError: If no such file is there, or it is another one than at the run's start.
    """
    found = trace_sha256(key, path, kinds)
    if wanted not in (None, found):
        told = f"it has SHA-256 {found[:12]}..., and {wanted[:12]}... was written down"
        raise ConfigError([f"{key} = {path}: {told}. Bring that file back, or drop trace_sha256."])
    return in_home(path)
