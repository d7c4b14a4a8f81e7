"""Files that map many values to few: intents to domains, say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from heterotune.errors import DataError
from heterotune.plain_files import read_small_text

_MAX_BYTES = 16 << 20


def read_groups(path: Path, *, name: str) -> dict[str, str]:
    """Read a file of {group: [values]} or {value: group}.

    Args:
        path: A JSON file.
        name: What the run file calls it; for messages.

    Returns:
        Value -> group.

    Raises:
        DataError: If it cannot be read, is neither of the two, or puts a value into two groups.
    """
    try:
        content = json.loads(read_small_text(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"data.partition.groups = {name}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"data.partition.groups = {name}: no mapping. Write {{group: [values]}} or {{value: group}}.")
    if all(isinstance(group, str) for group in content.values()):
        return content
    if not all(_is_list_of_texts(values) for values in content.values()):
        raise DataError(
            f"data.partition.groups = {name}: its values are neither all lists of texts nor all texts. "
            "Write {group: [values]} or {value: group}."
        )
    groups: dict[str, str] = {}
    for group, values in content.items():
        for value in values:
            if groups.setdefault(value, group) != group:
                raise DataError(
                    f"data.partition.groups = {name}: {value[:60]!r} is in {groups[value][:60]!r} and "
                    f"{group[:60]!r}. Leave it in one."
                )
    return groups


def _is_list_of_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
