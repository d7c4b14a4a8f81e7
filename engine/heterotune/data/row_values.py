"""Values of a row as text, and what is said about those that are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heterotune.config.nearest import suggestion
from heterotune.data.file_source import Table
from heterotune.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row of a table, by field name.

    Attributes:
        table: Where it stands; for messages and names of classes.
        values: The fields that were read.
    """

    table: Table
    values: Mapping[str, Any]

    def text(self, setting: str, field: str) -> str:
        """Return a field as text; a missing value is the empty text, the number of a class is its name.

        Raises:
            DataError: If it holds something else, such as a list.
        """
        value = self.values[field]
        if value is None:
            return ""
        names = self.table.class_names.get(field)
        if names is not None and isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        if isinstance(value, (str, int, float)):
            return str(value)
        kind = type(value).__name__
        raise DataError(f"data.{setting} = {field} of {self.table.file} holds {kind} values, not text.")


def check_field(table: Table, setting: str, field: str) -> None:
    """Check that a table has a field.

    Raises:
        DataError: If not; it names the nearest one.
    """
    if field not in table.columns:
        raise DataError(f"data.{setting} = {field} is no field of {table.file}. {suggestion(field, table.columns)}")
