"""Rows of a table into documents: field names, prompt template, owner and label of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heterotune.config.row_fields import ClassFields, MessageFields, TextFields
from heterotune.config.row_template import NAMED_TEMPLATES, filled, placeholders
from heterotune.data.document import Document
from heterotune.data.examples import READERS, Example, field_names
from heterotune.data.file_source import Table
from heterotune.data.row_values import Row, check_field
from heterotune.data.text_rows import values_at
from heterotune.errors import DataError

# Stanford Alpaca's prompt (github.com/tatsu-lab/stanford_alpaca, Apache-2.0), a format and so kept to the letter; the
# response begins on the line after the last.
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


@dataclass(frozen=True)
class FieldOf:
    """Where a row's owner, label or task comes from.

    Attributes:
        constant: The value of all rows, if no field has it.
        field: Name of the field; None = the constant.
        groups: Value of the field -> what stands for it; None = the value itself.
        groups_file: For messages.
    """

    constant: str = ""
    field: str | None = None
    groups: Mapping[str, str] | None = None
    groups_file: str = ""

    def of(self, row: Row) -> str:
        """Return the value of one row."""
        if self.field is None:
            return self.constant
        value = row.text("partition.key", self.field)
        if self.groups is None:
            return value
        if value not in self.groups:
            text = f"data.partition.groups = {self.groups_file} has no group for {value[:60]!r} of {row.table.file}"
            raise DataError(f"{text}. Add it.")
        return self.groups[value]


@dataclass(frozen=True)
class RowFormat:
    """How rows of a table become documents.

    Attributes:
        fields: The row format of the run file.
        template: `data.template`.
        separator: Text between prompt and response.
        labels: The classes; empty = the rows have none.
        owner, stratum, task: What partitions divide by; a stratum of None = the label, else the owner.
        question_of: Of text: the row format of a task of which it is the question, for its template; "" = of none.
    """

    fields: Any
    template: str
    separator: str
    labels: tuple[str, ...]
    owner: FieldOf
    stratum: FieldOf | None
    task: FieldOf
    question_of: str = ""

    def columns(self, table: Table) -> list[str]:
        """Return the fields to read.

        Raises:
            DataError: If the table lacks one.
        """
        wanted = field_names(self.fields)
        if self.template not in NAMED_TEMPLATES:
            known = READERS_PARTS.get(self.question_of or type(self.fields).__name__, ())
            wanted |= {f"template.{name}": name for name in placeholders(self.template) if name not in known}
        for place in (self.owner, self.stratum, self.task):
            if place is not None and place.field is not None:
                wanted["partition.key"] = place.field
        for setting, name in wanted.items():
            check_field(table, setting, name)
        return list(dict.fromkeys(wanted.values()))

    def documents(self, table: Table, places: slice | Sequence[int]) -> list[Document | None]:
        """Read some rows; None where text, prompt or response is empty.

        Raises:
            DataError: If a value is of the wrong kind.
        """
        names = self.columns(table)
        columns = [values_at(table.columns[name], places) for name in names]
        return [
            self._document(Row(table, dict(zip(names, values, strict=True)))) for values in zip(*columns, strict=True)
        ]

    def _document(self, row: Row) -> Document | None:
        key, task = self.owner.of(row), self.task.of(row)
        stratum = None if self.stratum is None else self.stratum.of(row)
        if isinstance(self.fields, TextFields):
            text = row.text("fields.text", self.fields.text)
            if self.question_of and text.strip():
                return self._question(key, text, row)
            label = key if stratum is None else stratum
            return Document(key, label, text=text, task=task) if text.strip() else None
        example = READERS[type(self.fields)](self.fields, row, self.labels)
        if not example.question.strip() or not example.response.strip():
            return None
        if example.label is not None:
            label, stratum = example.label, None if stratum == example.label else stratum
        else:
            label, stratum = key if stratum is None else stratum, None
        return Document(
            key,
            label,
            prompt=self._prompt(example, row),
            response=example.response,
            choices=example.choices,
            separator=self.separator,
            turns=self._turns(example),
            stratum=stratum,
            task=task,
        )

    def _question(self, key: str, text: str, row: Row) -> Document:
        """Return a text as a prompt without response: its row ends with the token before the answer."""
        first, *others = READERS_PARTS[self.question_of]
        example = Example(text, "", {first: text} | dict.fromkeys(others, ""))
        prompt = self._prompt(example, row)
        return Document(key, prompt=prompt, response="", separator=self.separator, turns=self._turns(example))

    def _prompt(self, example: Example, row: Row) -> str:
        is_instruction = "instruction" in example.parts
        if self.template == "alpaca" or (self.template == "auto" and is_instruction):
            template = ALPACA_WITH_INPUT if example.input else ALPACA_WITHOUT_INPUT
            return filled(template, {"instruction": example.question, "input": example.input})
        if self.template in NAMED_TEMPLATES:
            return _plain(example)
        names = placeholders(self.template)
        values = {name: example.parts[name] if name in example.parts else row.text("template", name) for name in names}
        return filled(self.template, values)

    def _turns(self, example: Example) -> tuple[tuple[str, str], ...]:
        if self.template == "chat" or isinstance(self.fields, MessageFields):
            return example.turns or (("user", _plain(example)),)
        return ()


READERS_PARTS = {
    "PromptFields": ("prompt",),
    "InstructionFields": ("instruction", "input"),
    "ClassFields": ("text",),
    "ChoiceFields": ("question", "choices"),
}
"""Row format -> placeholders of a template that mean a part of it, whatever the field is called."""


def _plain(example: Example) -> str:
    return f"{example.question}\n\n{example.input}" if example.input else example.question


def class_labels(fields: ClassFields, tables: Sequence[Table]) -> tuple[str, ...]:
    """Return the classes: those of the run file, else of the data set's own list, else all that occur, sorted.

    Raises:
        DataError: If fewer than two occur.
    """
    if fields.labels is not None:
        return fields.labels
    found: set[str] = set()
    for table in tables:
        check_field(table, "fields.label", fields.label)
        if fields.label in table.class_names:
            return tuple(table.class_names[fields.label])
        column = table.columns[fields.label]
        found |= {Row(table, {fields.label: value}).text("fields.label", fields.label) for value in column}
    found.discard("")
    if len(found) < 2:
        raise DataError(
            f"data.fields.label = {fields.label} holds {len(found)} different labels; a classification needs 2. "
            "Name another field, or list all classes in data.fields.labels."
        )
    return tuple(sorted(found))
