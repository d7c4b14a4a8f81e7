"""Corpora: where documents come from, and who naturally owns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heterotune.config.nearest import suggestion
from heterotune.config.schema import DataConfig, PartitionConfig, PromptFields, TextFields
from heterotune.data.file_source import Table, read_tables
from heterotune.data.stdlib_source import read_stdlib
from heterotune.errors import DataError

EMBEDDED_STDLIB = "embedded:stdlib"


@dataclass(frozen=True)
class Document:
    """One document: free text, or a prompt with its response.

    Attributes:
        key: Its natural owner.
        label: What a Dirichlet partition skews; None if the run asked for no label.
        text: Free text, else None.
        prompt: The prompt, else None.
        response: The response, else None.
        choices: Answers among which the response is one, for classification and multiple choice; else empty.
    """

    key: str
    label: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def num_characters(self) -> int:
        """Length of everything in it."""
        return len(self.text or "") + len(self.prompt or "") + len(self.response or "")


def load_corpus(config: DataConfig) -> tuple[Document, ...]:
    """Load the clients' documents, in the order of the source.

    Args:
        config: Section `data` of the run file.

    Raises:
        DataError: If the source is missing, unreadable or empty, or lacks a field that the run file names.
    """
    if config.source.startswith("embedded:"):
        _check_embedded(config)
        return tuple(Document(file.unit, file.unit, text=file.text) for file in read_stdlib("private"))
    tables = read_tables(config.source, setting="data.source")
    documents = _documents(config.source, tables, config.fields, config.partition)
    if not documents:
        raise DataError(f"data.source = {config.source}: the corpus is empty; no row has text.")
    return documents


def load_public(config: DataConfig) -> tuple[Document, ...]:
    """Load public documents, which no client owns: from `data.public`, else the embedded public modules.

    Raises:
        DataError: As `load_corpus`.
    """
    if config.public is None or config.public == EMBEDDED_STDLIB:
        return tuple(Document(key="public", text=text) for text in public_texts())
    if config.public.startswith("embedded:"):
        raise DataError(f"data.public = {config.public}: no such embedded corpus. There is {EMBEDDED_STDLIB}.")
    documents = _documents(
        config.public, read_tables(config.public, setting="data.public"), config.fields, PartitionConfig(by="iid")
    )
    if not documents:
        raise DataError(f"data.public = {config.public}: the public text is empty.")
    return documents


def public_texts() -> tuple[str, ...]:
    """Return the embedded public modules' texts, one per file, in path order."""
    return tuple(file.text for file in read_stdlib("public"))


def _check_embedded(config: DataConfig) -> None:
    if config.source != EMBEDDED_STDLIB:
        raise DataError(f"data.source = {config.source}: no such embedded corpus. There is {EMBEDDED_STDLIB}.")
    for name, value in (("fields", config.fields), ("partition.key", config.partition.key)):
        if value is not None:
            raise DataError(
                f"data.{name} does not go with data.source = {EMBEDDED_STDLIB}: it is text whose owners are the "
                "library's packages. Remove it."
            )


def _documents(
    source: str,
    tables: Sequence[Table],
    fields: TextFields | PromptFields | None,
    partition: PartitionConfig,
) -> tuple[Document, ...]:
    """Turn rows into documents; rows with an empty text, prompt or response are left out."""
    owner_field, label_field = _partition_fields(source, tables, partition)
    documents: list[Document] = []
    for table in tables:
        owners = (
            [table.file] * _num_rows(table) if owner_field is None else _strings(table, "partition.key", owner_field)
        )
        labels = owners if label_field is None else _strings(table, "partition.key", label_field)
        documents += _table_documents(table, _row_fields(fields, table), owners, labels)
    return tuple(documents)


def _table_documents(
    table: Table, fields: TextFields | PromptFields, owners: Sequence[str], labels: Sequence[str]
) -> list[Document]:
    if isinstance(fields, TextFields):
        texts = _strings(table, "fields.text", fields.text)
        rows = zip(owners, labels, texts, strict=True)
        return [Document(key, label, text=text) for key, label, text in rows if text.strip()]
    prompts = _strings(table, "fields.prompt", fields.prompt)
    responses = _strings(table, "fields.response", fields.response)
    return [
        Document(key, label, prompt=prompt, response=response)
        for key, label, prompt, response in zip(owners, labels, prompts, responses, strict=True)
        if prompt.strip() and response.strip()
    ]


def _partition_fields(
    source: str, tables: Sequence[Table], partition: PartitionConfig
) -> tuple[str | None, str | None]:
    """Return the fields that hold owner and label; None = the file that a row stands in."""
    if partition.by == "iid":
        return None, None
    if partition.key is not None:
        return (partition.key, None) if partition.by == "natural" else (None, partition.key)
    if len(tables) == 1:
        role = "owner" if partition.by == "natural" else "label"
        raise DataError(
            f"data.partition.by = {partition.by} needs data.partition.key, the field of {source} that holds a row's "
            f"{role}. There is: {', '.join(tables[0].columns)}. Or set data.partition.by to iid."
        )
    return None, None


def _row_fields(fields: TextFields | PromptFields | None, table: Table) -> TextFields | PromptFields:
    if fields is not None:
        return fields
    if "text" in table.columns:
        return TextFields(text="text")
    raise DataError(
        f"data.fields is missing, and {table.file} has no field named text. Name the fields: "
        f"{{text: NAME}} or {{prompt: NAME, response: NAME}}. There is: {', '.join(table.columns)}."
    )


def _num_rows(table: Table) -> int:
    return len(next(iter(table.columns.values())))


def _strings(table: Table, setting: str, field: str) -> list[str]:
    """Return a field of all rows as text; a row without it gives the empty text."""
    if field not in table.columns:
        raise DataError(f"data.{setting} = {field} is no field of {table.file}. {suggestion(field, table.columns)}")
    return [_string(value, table, setting, field) for value in table.columns[field]]


def _string(value: Any, table: Table, setting: str, field: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise DataError(f"data.{setting} = {field} of {table.file} holds {type(value).__name__} values, not text.")
