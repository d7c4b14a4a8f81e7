"""Small files of somebody else's: regular ones, up to a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heterotune.plain_files import in_home, is_folder, is_plain_file, read_small_bytes, read_small_text


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ä\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_small_text(tmp_path / "link", 3) == "ä\n"
    assert read_small_bytes(tmp_path / "file", 3) == b"\xc3\xa4\n"


def test_what_is_too_large_or_no_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    with pytest.raises(OSError, match="it is larger than 10 bytes"):
        read_small_bytes(tmp_path / "large", 10)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_small_bytes(path, 10)
    for path in ("a\x00b", "\ud800"):
        with pytest.raises(OSError, match="a path cannot hold these characters"):
            read_small_bytes(path, 10)


def test_looking_never_raises(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (Path("x" * 5000), Path("a\x00b"), tmp_path / "loop"):
        assert not is_plain_file(path) and not is_folder(path)
    assert is_folder(tmp_path) and not is_plain_file(tmp_path)
    assert in_home("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
    assert in_home("~") == Path.home()
