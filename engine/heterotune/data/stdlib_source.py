"""The embedded corpus: the Python standard library's own source, as found on the machine that runs us. No download.

A unit is a top-level package or module (`asyncio`, `tarfile`). A fixed set of units is public: the tokenizer, the
embedded model family and the alignment of model types see them. All others are private and belong to clients.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heterotune.errors import DataError

# About 40 % of the bytes; general-purpose modules that exist in every supported Python. Changing this list makes the
# embedded family stale: it was pre-trained on exactly these (tools/pretrain_family.py).
PUBLIC_MODULES = tuple(
    """
    abc argparse ast asyncio base64 bisect calendar codecs collections concurrent configparser contextlib copy csv
    dataclasses datetime difflib email enum fnmatch fractions functools gettext glob hashlib heapq html http
    importlib inspect io json linecache locale logging mimetypes numbers operator os pathlib pickle platform pprint
    queue random re reprlib selectors shlex shutil socket statistics string subprocess tempfile textwrap threading
    tokenize traceback types typing urllib uuid warnings weakref zipfile
    """.split()
)
# Tests, third-party packages, tables of constants, and files that differ from build to build.
_EXCLUDED = frozenset(
    {
        "test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload", "encodings",
        "pydoc_data", "turtledemo", "ensurepip", "lib2to3", "__phello__",
    }
)  # fmt: skip
_EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")


@dataclass(frozen=True)
class SourceFile:
    """One file of the standard library: the unit that owns it, its path inside the library, its text."""

    unit: str
    path: str
    text: str


def read_stdlib(part: Literal["public", "private"], root: Path | None = None) -> tuple[SourceFile, ...]:
    """Read the Python files of one part of the corpus, in path order.

    Args:
        part: The public units, or all others.
        root: Folder to read instead of this Python's own library.

    Raises:
        DataError: If the folder holds no Python source (some minimal installations ship only compiled files).
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    wanted = [path for path in _source_paths(root) if (_unit(path) in PUBLIC_MODULES) == (part == "public")]
    files = (SourceFile(_unit(path), path.as_posix(), _read(root / path)) for path in sorted(wanted))
    files = tuple(file for file in files if file.text.strip())
    if not files:
        raise DataError(
            f"data.source = embedded:stdlib: no {part} Python source in {root}. "
            "Install the standard library's source files, or give data.source a file of your own."
        )
    return files


def _source_paths(root: Path) -> Iterator[Path]:
    """Yield the corpus's files, relative to `root`; excluded folders (site-packages may be huge) are not entered."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if _belongs(name)]
        for name in names:
            if name.endswith(".py") and _belongs(name):
                yield Path(folder, name).relative_to(root)


def _belongs(name: str) -> bool:
    return name not in _EXCLUDED and not name.startswith(_EXCLUDED_PREFIXES)


def _unit(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
