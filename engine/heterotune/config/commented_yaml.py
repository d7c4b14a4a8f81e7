"""A run file with every key of the schema: those that are set, and the others as comments with their defaults."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from heterotune.config.json_schema import run_schema
from heterotune.config.yaml_text import write_yaml

_WIDTH = 110
_INDENT = "  "


def commented_run(values: Mapping[str, Any]) -> str:
    """Write a run file in which every key is explained by its docstring line.

    Args:
        values: What is set, as plain values. Every other key is written as a comment with its default, so that removing
            `# ` in front of it, or of a whole section, changes nothing by itself.

    Returns:
        YAML text that `load_run` reads as the same run as `values`.
    """
    schema = run_schema()
    lines: list[str] = []
    for name, field in schema["properties"].items():
        lines += ["", *_key(name, field, values, schema["$defs"])]
    return "\n".join(lines[1:]) + "\n"


def _key(name: str, field: Mapping[str, Any], values: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    """Return the lines of one key: what it means, and its value."""
    section = definitions[field["$ref"].rpartition("/")[2]] if "$ref" in field else None
    about = _comment(field.get("description") or (section or {}).get("description", ""))
    if section is not None:
        lines = [
            f"{name}:",
            *_section(section, values.get(name, field.get("default", {})), definitions, name in values),
        ]
    else:
        text = write_yaml({name: values.get(name, field.get("default"))}).rstrip()
        lines = (text[1:-1] if text.startswith("{") else text).split("\n")  # braces stand around a lone scalar
    if name in values:
        return [*about, *_entry_keys(field, definitions), *lines]
    return [*about, *(f"# {line}" for line in lines)]


def _section(
    section: Mapping[str, Any], values: Mapping[str, Any], definitions: Mapping[str, Any], is_set: bool
) -> Iterator[str]:
    """Yield the lines of a section, indented; all of it is live if the section is a comment as a whole."""
    for name, field in section["properties"].items():
        known = values if is_set else {name: values.get(name, field.get("default")), **values}
        yield from (_INDENT + line for line in _key(name, field, known, definitions))


def _entry_keys(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the keys of a list's entries mean."""
    reference = field.get("items", {}).get("$ref")
    entry = definitions[reference.rpartition("/")[2]] if reference else {"properties": {}}
    for name, inner in entry["properties"].items():
        yield from _comment(f"`{name}`: {inner['description']}", hanging=_INDENT)


def _comment(text: str, hanging: str = "") -> list[str]:
    """Return a text as comment lines."""
    first = f"# {hanging}"
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=first, subsequent_indent=first + hanging)
