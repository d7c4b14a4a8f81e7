"""Corpora: where documents come from, and who naturally owns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heterotune.config.data_options import DataConfig, PartitionConfig, SourceEntry, as_entries
from heterotune.config.row_fields import ClassFields, RowFields, TextFields
from heterotune.data.document import Document
from heterotune.data.file_source import Table, in_root, read_tables
from heterotune.data.label_groups import read_groups
from heterotune.data.row_formats import READERS_PARTS, FieldOf, RowFormat, class_labels
from heterotune.data.stdlib_source import read_stdlib
from heterotune.errors import DataError

__all__ = ["Document", "TableReader", "load_corpus", "load_public", "load_test", "open_tables", "public_texts"]

EMBEDDED_STDLIB = "embedded:stdlib"
BY_LABEL = ("dirichlet", "pathological", "model_type")
_ROLES = {"natural": "owner", "task": "task"}
_PORTION = 2000  # rows that are read at once


@dataclass(frozen=True)
class TableReader:
    """A table and how its rows become documents."""

    table: Table
    format: RowFormat

    def documents(self) -> Iterator[list[Document | None]]:
        """Yield all rows' documents in portions, in order; None for a row without text."""
        for start in range(0, self.table.num_rows, _PORTION):
            yield self.format.documents(self.table, slice(start, start + _PORTION))


def load_corpus(config: DataConfig) -> tuple[Document, ...]:
    """Load the clients' documents, in the order of the source.

    Args:
        config: Section `data` of the run file.

    Raises:
        DataError: If the source is missing, unreadable or empty, or lacks a field that the run file names.
    """
    if is_embedded(config):
        return tuple(Document(file.unit, file.unit, text=file.text) for file in read_stdlib("private"))
    return _all_documents(open_tables(config), f"data.source = {shown_source(config.sources)}: the corpus")


def load_test(config: DataConfig) -> tuple[Document, ...]:
    """Load the documents of `data.test`, with the row format and the classes of the clients' documents.

    Raises:
        DataError: As `load_corpus`.
    """
    assert config.test is not None
    own = config.model_copy(update={"source": config.test})
    if config.partition.by != "natural" or config.partition.key is None:  # nobody divides it: only owners are wanted
        own = own.model_copy(update={"partition": PartitionConfig(by="iid")})
    given = _labels_of(config)
    if isinstance(given, tuple) and isinstance(own.fields, ClassFields):
        own = own.model_copy(update={"fields": own.fields.model_copy(update={"labels": given})})
    readers = open_tables(own, setting="data.test")
    return _all_documents(readers, f"data.test = {shown_source(own.sources)}: the test set")


def _labels_of(config: DataConfig) -> tuple[str, ...] | None:
    """Return the classes of the clients' documents where all sources have the same ones."""
    if not isinstance(config.fields, ClassFields) or any(entry.fields is not None for entry in config.sources):
        return None
    readers = open_tables(config)
    return readers[0].format.labels if readers else None


def load_public(config: DataConfig, *, as_questions: bool = False) -> tuple[Document, ...]:
    """Load public documents, which no client owns: from `data.public`, else the embedded public modules.

    Args:
        config: Section `data`.
        as_questions: Texts are questions of the clients' task: they go into its template, and have no response. Of the
            clients' row format with classes only the text is read.

    Raises:
        DataError: As `load_corpus`; or if questions are wanted of text that can be none.
    """
    entries = () if config.public is None else as_entries(config.public)
    shown = shown_source(entries) if entries else EMBEDDED_STDLIB
    if shown == EMBEDDED_STDLIB:
        if as_questions:
            raise DataError(
                "heterotune.align_positions = answer needs questions like the clients' own: name a source of them in "
                "data.public, or set align_positions: all and distill_every: 0."
            )
        return tuple(Document(key="public", text=text) for text in public_texts())
    if shown.startswith("embedded:"):
        raise DataError(f"data.public = {shown}: no such embedded corpus. There is {EMBEDDED_STDLIB}.")
    own = config.model_copy(update={"source": config.public, "partition": PartitionConfig(by="iid")})
    readers = open_tables(own, setting="data.public", texts_are_questions=as_questions)
    return _all_documents(readers, f"data.public = {shown}: the public text")


def _question_of(task: RowFields | None) -> str:
    """Return the row format of which texts can be the question."""
    if type(task).__name__ not in READERS_PARTS:
        raise DataError(
            "heterotune.align_positions = answer needs the place before an answer, and rows of data.public are text, "
            "for which data.fields has no prompt. Set align_positions: all, or use rows with prompts or classes."
        )
    return type(task).__name__


def _question_fields(task: RowFields | None) -> RowFields | None:
    """Return the row format of questions without answers: of a text with a class, the text."""
    return TextFields(text=task.text) if isinstance(task, ClassFields) else task


def public_texts() -> tuple[str, ...]:
    """Return the embedded public modules' texts, one per file, in path order."""
    return tuple(file.text for file in read_stdlib("public"))


def is_embedded(config: DataConfig) -> bool:
    """Return whether the clients' text is the embedded corpus.

    Raises:
        DataError: If it is another embedded one, or comes with keys that do not go with it.
    """
    named = [entry.path for entry in config.sources if (entry.path or "").startswith("embedded:")]
    if not named:
        return False
    if named != [EMBEDDED_STDLIB] or len(config.sources) > 1:
        unknown = next((name for name in named if name != EMBEDDED_STDLIB), None)
        if unknown is None:
            raise DataError(f"data.source: {EMBEDDED_STDLIB} is a corpus of its own. Give it alone, or not.")
        raise DataError(f"data.source = {unknown}: no such embedded corpus. There is {EMBEDDED_STDLIB}.")
    by = config.partition.by if config.partition.by in ("task", "model_type") else None
    for name, value in (("fields", config.fields), ("partition.key", config.partition.key), ("partition.by", by)):
        if value is not None:
            raise DataError(
                f"data.{name} does not go with data.source = {EMBEDDED_STDLIB}: it is text whose owners are the "
                "library's packages. Remove it."
            )
    return True


def shown_source(entries: Sequence[SourceEntry]) -> str:
    """Return the places of some sources, for messages."""
    names = [entry.path or ", ".join((entry.lines or {}).values()) for entry in entries]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def open_tables(
    config: DataConfig, *, setting: str = "data.source", texts_are_questions: bool = False
) -> tuple[TableReader, ...]:
    """Open all tables of the clients' documents; no row is read, but classes may be looked up.

    Args:
        config: Section `data`; `source` is what is opened.
        setting: Its key in the run file.
        texts_are_questions: Rows of text are the question of what `fields` says, and have no answer; nor do rows of a
            source without `fields` of its own where these are a text and its class.

    Raises:
        DataError: If a source is missing or unreadable, or lacks a field that the run file names.
    """
    entries = as_entries(config.source)
    tables = [read_tables(entry, setting=_numbered(setting, i, config.source), root=config.root)
              for i, entry in enumerate(entries)]  # fmt: skip
    groups = None
    if config.partition.groups is not None:
        groups = read_groups(in_root(config.partition.groups, config.root), name=config.partition.groups)
    common = _question_fields(config.fields) if texts_are_questions else config.fields
    readers = []
    for entry, own in zip(entries, tables, strict=True):
        labels = _entry_labels(entry.fields or common, own)
        for table in own:
            fields = _row_fields(entry.fields or common, table)
            places = _partition_places(config, entry, table, fields, sum(map(len, tables)), groups)
            of = _question_of(config.fields) if texts_are_questions and isinstance(fields, TextFields) else ""
            reader = TableReader(table, RowFormat(fields, config.template, config.separator, labels, *places, of))
            reader.format.columns(table)
            readers.append(reader)
    return tuple(readers)


def _numbered(setting: str, place: int, source: object) -> str:
    return f"{setting}.{place}" if isinstance(source, tuple) else setting


def _all_documents(readers: Sequence[TableReader], what: str) -> tuple[Document, ...]:
    """Read rows; those with an empty text, prompt or response are left out."""
    documents = tuple(each for reader in readers for portion in reader.documents() for each in portion if each)
    if not documents:
        raise DataError(f"{what} is empty; no row has text.")
    return documents


def _entry_labels(fields: RowFields | None, tables: Sequence[Table]) -> tuple[str, ...]:
    return class_labels(fields, tables) if isinstance(fields, ClassFields) and tables else ()


def _partition_places(
    config: DataConfig,
    entry: SourceEntry,
    table: Table,
    fields: RowFields,
    num_tables: int,
    groups: dict[str, str] | None,
) -> tuple[FieldOf, FieldOf | None, FieldOf]:
    """Return where owner, label (None = the class, else the owner) and task of a table's rows are."""
    partition = config.partition
    own = FieldOf(entry.task or table.file)
    task = FieldOf(entry.task or "")
    keyed = FieldOf(field=partition.key, groups=groups, groups_file=partition.groups or "")
    is_drawn_alike = partition.by == "drawn" and partition.within == "iid"
    if partition.by in ("iid", "quantity") or (is_drawn_alike and partition.key is None):
        return own, None, task
    if partition.key is not None:
        if partition.by == "task":
            return own, None, keyed
        return (keyed, None, task) if partition.by == "natural" else (own, keyed, task)
    needs_key = num_tables == 1 and entry.task is None
    if partition.by == "task":
        needs_key = entry.task is None
    if partition.by in (*BY_LABEL, "drawn") and isinstance(fields, ClassFields):
        needs_key = False
    if needs_key:
        raise DataError(
            f"data.partition.by = {partition.by} needs data.partition.key, the field of "
            f"{shown_source([entry])} that holds a row's {_ROLES.get(partition.by, 'label')}. "
            f"There is: {', '.join(table.columns)}. Or set data.partition.by to iid."
        )
    return own, None, task


def _row_fields(fields: RowFields | None, table: Table) -> RowFields:
    if fields is not None:
        return fields
    if "text" in table.columns:
        return TextFields(text="text")
    raise DataError(
        f"data.fields is missing, and {table.file} has no field named text. Name the fields: "
        f"{{text: NAME}} or {{prompt: NAME, response: NAME}}. There is: {', '.join(table.columns)}."
    )
