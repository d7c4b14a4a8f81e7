"""The embedded corpus: which files belong to it, and to which part."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterotune.data.stdlib_source import PUBLIC_MODULES, read_stdlib
from heterotune.errors import DataError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small standard library: two public files, two private ones, and everything that must be left out."""
    kept = {"json/decoder.py": "a = 1\n", "abc.py": "b = 2\n", "turtle.py": "c = 3\n", "idlelib/run.py": "d = 4\n"}
    left_out = [
        "test/test_abc.py", "json/tests/test_x.py", "idlelib/idle_test/test_y.py", "site-packages/numpy/core.py",
        "encodings/cp037.py", "_sysconfigdata__linux_x86.py", "config-3.11-x86/python-config.py", "lib2to3/main.py",
    ]  # fmt: skip
    for name, text in {**kept, **dict.fromkeys(left_out, "x = 0\n"), "empty.py": "\n", "notes.txt": "no"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_parts_are_disjoint_and_leave_out_tests_and_packages(library: Path) -> None:
    public = [(file.unit, file.path, file.text) for file in read_stdlib("public", library)]
    private = [(file.unit, file.path, file.text) for file in read_stdlib("private", library)]
    assert public == [("abc", "abc.py", "b = 2\n"), ("json", "json/decoder.py", "a = 1\n")]
    assert private == [("idlelib", "idlelib/run.py", "d = 4\n"), ("turtle", "turtle.py", "c = 3\n")]


def test_a_file_that_is_not_utf8_is_read_all_the_same(library: Path) -> None:
    (library / "odd.py").write_bytes(b"s = '\xff'\n")
    assert [file.text for file in read_stdlib("private", library) if file.unit == "odd"] == ["s = '\ufffd'\n"]


def test_this_library_has_many_owners_and_a_public_part_of_30_to_60_percent() -> None:
    public, private = read_stdlib("public"), read_stdlib("private")
    public_characters = sum(len(file.text) for file in public)
    share = public_characters / (public_characters + sum(len(file.text) for file in private))
    assert 0.3 < share < 0.6
    assert len({file.unit for file in private}) >= 64
    assert {file.unit for file in public} == set(PUBLIC_MODULES)


def test_a_library_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"embedded:stdlib: no private Python source in .*source files"):
        read_stdlib("private", tmp_path)
