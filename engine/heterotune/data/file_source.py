"""Files, folders and hub data sets, read through the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.errors import DataError
from heterotune.plain_files import in_home, is_folder, is_plain_file

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_EMPTY_LINES = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Table:
    """The rows of one file (or hub data set): its name without suffix, and field name -> values in row order."""

    file: str
    columns: Mapping[str, Sequence[Any]]


def read_tables(source: str, *, setting: str) -> tuple[Table, ...]:
    """Read a file, every file of one kind in a folder, or the train split of a hub data set.

    A single text file is cut at empty lines, one row each; in a folder every text file is one row. Rows of text have
    the fields `text` and `first_line`.

    Args:
        source: Path or hub id.
        setting: Key of the run file that names the source; for messages.

    Raises:
        DataError: If it is missing, of an unknown or mixed kind, unreadable, or cannot be fetched.
    """
    path = in_home(source)
    if is_folder(path):
        return _read_files(_files_in(path, setting), path, setting)
    if is_plain_file(path):
        if path.suffix.lower() not in BUILDERS:
            raise DataError(f"{setting} = {source}: not a {_kinds()} file. Convert it to one of these.")
        return _read_files([path], path.parent, setting)
    if path.suffix.lower() in BUILDERS or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise DataError(f"{setting} = {source}: no such file or folder. Give a path, a hub id or embedded:stdlib.")
    return (_read_hub(source, setting),)


def _kinds() -> str:
    return "/".join(BUILDERS)


def _files_in(folder: Path, setting: str) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in BUILDERS and is_plain_file(path))
    if not files:
        raise DataError(f"{setting} = {folder}: the folder holds no {_kinds()} file.")
    kinds = sorted({BUILDERS[file.suffix.lower()] for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{setting} = {folder}: the folder mixes {' and '.join(kinds)} files. Give one kind, or one file."
        )
    return files


def _read_files(files: Sequence[Path], root: Path, setting: str) -> tuple[Table, ...]:
    files = [file for file in files if file.stat().st_size > 0]
    names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    if not files:
        return ()
    builder = BUILDERS[files[0].suffix.lower()]
    if builder == "text":
        loaded = _load(builder, files, setting, sample_by="document")["text"]
        if len(files) == 1:
            return (_text_table(names[0], [part for part in _EMPTY_LINES.split(loaded[0]) if part.strip()]),)
        return tuple(_text_table(name, [text]) for name, text in zip(names, loaded, strict=True))
    return tuple(Table(name, _load(builder, [file], setting)) for name, file in zip(names, files, strict=True))


def _text_table(name: str, texts: list[str]) -> Table:
    first_lines = [text.strip().partition("\n")[0].strip() for text in texts]
    return Table(name, {"text": texts, "first_line": first_lines})


def _load(builder: str, files: Sequence[Path], setting: str, **options: str) -> dict[str, Sequence[Any]]:
    """Return the columns of local files; a column is read from disk when it is first used."""
    import datasets  # takes seconds to import, and the embedded corpus does not need it

    try:
        with _quiet():
            rows = datasets.load_dataset(builder, data_files=[str(file) for file in files], split="train", **options)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = _one_line(error.__cause__ or error)
        raise DataError(f"{setting}: {_names(files)} cannot be read as {builder} ({cause}).") from error
    return {name: rows[name] for name in rows.column_names}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"one of the {len(files)} files in {files[0].parent}"


def _read_hub(hub_id: str, setting: str) -> Table:
    import datasets

    try:
        with _quiet():
            rows = datasets.load_dataset(hub_id, split="train")
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = _one_line(error.__cause__ or error)
        raise DataError(
            f"{setting} = {hub_id}: no local file, and no hub data set that can be fetched ({cause})."
        ) from error
    return Table(hub_id, {name: rows[name] for name in rows.column_names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch the library's progress bars off for a while: they would write into the run's own display."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
