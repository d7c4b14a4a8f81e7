"""Files, folders and hub data sets, read through the `datasets` library."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterotune.config.data_options import SourceEntry
from heterotune.data.text_rows import text_table_columns
from heterotune.errors import DataError
from heterotune.plain_files import in_home, is_folder, is_plain_file

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder
_EMPTY_LINES = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Table:
    """The rows of one file (or hub data set).

    Attributes:
        file: Its name without suffix.
        columns: Field name -> values in row order; they may be read from disk when they are asked for.
        class_names: Field name -> names of the classes that its integers stand for, where the data set says so.
        fingerprint: Changes with what is in it.
    """

    file: str
    columns: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def num_rows(self) -> int:
        """Rows in it."""
        return len(next(iter(self.columns.values()), ()))


def read_tables(source: str | SourceEntry, *, setting: str, root: str | None = None) -> tuple[Table, ...]:
    """Read a file, every file of one kind in a folder, line-aligned files, or a split of a saved or hub data set.

    A single text file is cut at empty lines, one row each; in a folder every text file is one row, unless `cut` says
    otherwise. Rows of text have the fields `text` and `first_line`, and one for each named group of `pattern`.

    Args:
        source: Path, hub id, or a source with options.
        setting: Key of the run file that names the source; for messages.
        root: Folder that relative paths begin in; None = the working directory.

    Raises:
        DataError: If it is missing, of an unknown or mixed kind, unreadable, or cannot be fetched.
    """
    entry = SourceEntry(path=source) if isinstance(source, str) else source
    if entry.lines is not None:
        return (_aligned_lines(entry.lines, setting, root),)
    name = entry.path or ""
    path = in_root(name, root)
    if is_folder(path) and any(is_plain_file(path / mark) for mark in _SAVED):
        return (_read_saved(path, entry, setting),)
    for key in ("config", "revision", "split"):
        if (is_plain_file(path) or is_folder(path)) and getattr(entry, key) is not None:
            raise DataError(f"{setting}.{key} is for hub data sets, and {name} is a file or folder. Remove it.")
    if is_folder(path):
        return _read_files(_files_in(path, entry.files, setting), path, entry, setting)
    if is_plain_file(path):
        if path.suffix.lower() not in BUILDERS:
            raise DataError(f"{setting} = {name}: not a {_kinds()} file. Convert it to one of these, or use lines.")
        return _read_files([path], path.parent, entry, setting)
    if path.suffix.lower() in BUILDERS or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise DataError(f"{setting} = {name}: no such file or folder. Give a path, a hub id or embedded:stdlib.")
    return (_read_hub(name, entry, setting),)


def in_root(path: str, root: str | None) -> Path:
    """Return a path of the run file, relative ones inside `root`."""
    return in_home(path) if root is None else in_home(root) / in_home(path)


def _kinds() -> str:
    return "/".join(BUILDERS)


def _files_in(folder: Path, pattern: str | None, setting: str) -> list[Path]:
    try:
        found = folder.rglob("*") if pattern is None else folder.glob(pattern)
        files = sorted(path for path in found if path.suffix.lower() in BUILDERS and is_plain_file(path))
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{setting}.files = {pattern}: no pattern of file names ({error}). Correct it.") from error
    if not files:
        which = "" if pattern is None else f" that fits {pattern}"
        raise DataError(f"{setting} = {folder}: the folder holds no {_kinds()} file{which}.")
    kinds = sorted({BUILDERS[file.suffix.lower()] for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{setting} = {folder}: the folder mixes {' and '.join(kinds)} files. Give one kind, one file, or files:."
        )
    return files


def _read_files(files: Sequence[Path], root: Path, entry: SourceEntry, setting: str) -> tuple[Table, ...]:
    files = [file for file in files if file.stat().st_size > 0]
    names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    if not files:
        return ()
    builder = BUILDERS[files[0].suffix.lower()]
    if builder == "text":
        return _read_texts(files, names, entry, setting)
    return tuple(_table(name, _load(builder, [file], setting)) for name, file in zip(names, files, strict=True))


def _read_texts(files: Sequence[Path], names: Sequence[str], entry: SourceEntry, setting: str) -> tuple[Table, ...]:
    cut = entry.cut if entry.cut != "auto" else ("blank_lines" if len(files) == 1 else "files")
    tables = []
    for name, file in zip(names, files, strict=True):
        rows = _load("text", [file], setting, sample_by="line" if cut == "lines" else "document", several=files)
        texts: Sequence[str] = rows["text"]
        if cut == "blank_lines":
            texts = [part for part in _EMPTY_LINES.split(texts[0]) if part.strip()]
        columns = text_table_columns(texts, entry.pattern, setting=setting)
        tables.append(Table(name, columns, fingerprint=_mark_of(file)))
    return tuple(tables)


def _aligned_lines(lines: Mapping[str, str], setting: str, root: str | None) -> Table:
    """Return files whose lines belong together as one table."""
    paths = {field_name: in_root(name, root) for field_name, name in lines.items()}
    for field_name, path in paths.items():
        if not is_plain_file(path):
            raise DataError(f"{setting}.lines.{field_name} = {lines[field_name]}: no such file. Correct the path.")
    columns = {
        name: _load("text", [path], setting, sample_by="line")["text"] if path.stat().st_size else []
        for name, path in paths.items()
    }
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{setting}.lines: the files differ in their numbers of lines ({told}). They must be aligned.")
    first = next(iter(paths.values()))
    mark = " ".join(_mark_of(path) for path in paths.values())
    return Table(first.parent.name or first.name, columns, fingerprint=mark)


def _mark_of(path: Path) -> str:
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


def _load(
    builder: str,
    files: Sequence[Path],
    setting: str,
    several: Sequence[Path] = (),
    **options: str,
) -> Dataset:
    """Return the rows of local files; a column is read from disk when it is first used."""
    import datasets  # takes seconds to import, and the embedded corpus does not need it

    if builder == "tsv":
        builder, options = "csv", {"sep": "\t"}
    # Not load_dataset, which tells a server that "json" was used, and waits 5 s where there is no network.
    read = getattr(datasets.Dataset, f"from_{builder}")
    try:
        with _quiet():
            return read([glob.escape(str(file)) for file in files], split="train", **options)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = _one_line(error.__cause__ or error)
        raise DataError(f"{setting}: {_names(several or files)} cannot be read as {builder} ({cause}).") from error


def _table(name: str, rows: Dataset) -> Table:
    import datasets

    class_names = {
        column: tuple(kind.names) for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)
    }
    return Table(name, {column: rows[column] for column in rows.column_names}, class_names, rows._fingerprint)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"one of the {len(files)} files in {files[0].parent}"


def _read_saved(path: Path, entry: SourceEntry, setting: str) -> Table:
    """Read what `datasets` saved with `save_to_disk`."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (datasets.exceptions.DatasetsError, ValueError, OSError, KeyError, TypeError) as error:
        raise DataError(f"{setting} = {path}: the saved data set cannot be read ({_one_line(error)}).") from error
    if isinstance(saved, datasets.DatasetDict):
        split = entry.split or "train"
        if split not in saved:
            raise DataError(f"{setting}.split = {split}: {path} has no such split. There is: {', '.join(saved)}.")
        return _table(path.name, saved[split])
    return _table(path.name, saved)


def _read_hub(hub_id: str, entry: SourceEntry, setting: str) -> Table:
    import datasets

    options = {"name": entry.config, "revision": entry.revision}
    try:
        with _quiet():
            rows = datasets.load_dataset(
                hub_id, split=entry.split or "train", **{key: value for key, value in options.items() if value}
            )
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = _one_line(error.__cause__ or error)
        raise DataError(
            f"{setting} = {hub_id}: no local file, and no hub data set that can be fetched ({cause})."
        ) from error
    return _table(hub_id, rows)


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
