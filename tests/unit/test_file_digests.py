"""Descriptions of files, and which files need not be read again."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from heterotune import file_digests as module
from heterotune.file_digests import KnownFiles, describe, to_disk


def test_a_description(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert describe(tmp_path / "a") == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}


def test_only_new_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, names = KnownFiles(), [tmp_path / name for name in "abc"]
    for path in names:
        path.write_bytes(path.name.encode())
    before = known.settle(names)
    os.link(names[0], tmp_path / "link")
    (tmp_path / "new").write_bytes(b"B")
    os.replace(tmp_path / "new", names[1])
    read = []
    monkeypatch.setattr(module, "describe", lambda path: read.append(path.name) or describe(path))
    after = known.settle([tmp_path / "link", names[1]])
    assert read == ["b"]
    assert after == [before[0], {"bytes": 1, "sha256": hashlib.sha256(b"B").hexdigest()}]
    known.settle([names[2]])
    assert read == ["b", "c"], "what was not in the last list is forgotten"


def refuse(handle: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_only_a_folder_may_refuse_to_go_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(module.os, "fsync", refuse)
    to_disk(tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        to_disk(tmp_path / "a")
