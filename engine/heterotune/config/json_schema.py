"""The run file as JSON schema, for editors that complete and check YAML, and as a page of documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from heterotune.config.schema import RunConfig

Schema = Mapping[str, Any]

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_NO_BOUNDS = (2**31 - 1, 2**63 - 1)  # limits of the machine, not of the meaning
_HEAD = """\
# Configuration: every key of a run file

Written by `heterotune schema --markdown` from the models in `engine/heterotune/config/`; do not edit. A run file is
YAML and only `name`, `rounds`, `fleet` and `data.source` are needed. Every key can be overridden on the command line
(`--set local.steps=20`, `--set fleet.0.clients=3`). A key that is unknown, out of range or at odds with another is
refused with exit code 2 before anything starts, with every other mistake in the file.

Editors complete and check run files with the JSON schema: `heterotune schema --out run.schema.json`, and
`# yaml-language-server: $schema=run.schema.json` as the first line of the YAML, as `heterotune init` writes it.
"""


def run_schema() -> dict[str, Any]:
    """Return the JSON schema of a run file; rules between keys are checked by `heterotune plan` and `run` alone."""
    return {"$schema": SCHEMA_DIALECT, **RunConfig.model_json_schema(), "title": "A run of heterotune"}


def run_reference() -> str:
    """Return the page that lists every key with type, range, default and meaning, as Markdown."""
    schema = run_schema()
    parts = [_HEAD, _table(schema, schema["$defs"])]
    for path, section in _sections(schema, schema["$defs"]):
        parts.append(f"## `{path}`\n\n{section.get('description', '')}\n")
        parts.append(_table(section, schema["$defs"]))
    return "\n".join(parts)


def _sections(schema: Schema, definitions: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Go through the sections below one, each followed by its own; a union of sections gives several."""
    for name, field in schema["properties"].items():
        here = f"{path}.{name}" if path else name
        for section, suffix in _models_of(field, definitions):
            yield here + suffix, section
            yield from _sections(section, definitions, here + suffix)


def _models_of(field: Schema, definitions: Schema, suffix: str = "") -> Iterator[tuple[Schema, str]]:
    """Yield the sections that a key may hold; "[]" marks a list's entries, ".NAME" a mapping's."""
    if "$ref" in field:
        yield definitions[field["$ref"].rpartition("/")[2]], suffix
    for kind in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _models_of(kind, definitions, suffix)
    if "items" in field:
        yield from _models_of(field["items"], definitions, f"{suffix}[]")
    if isinstance(field.get("additionalProperties"), Mapping):
        yield from _models_of(field["additionalProperties"], definitions, f"{suffix}.NAME")


def _table(schema: Schema, definitions: Schema) -> str:
    """Return a table of a section's keys."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        models = list(_models_of(field, definitions))
        meaning = field.get("description") or (models[0][0].get("description", "") if models else "")
        default = _default(field) if "$ref" not in field or "default" not in field else "see there"
        cells = [f"`{name}`", _kind(field), default, meaning]
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(field: Schema) -> str:
    """Return a key's default as YAML would take it; a key without one is required."""
    return f"`{json.dumps(field['default'])}`" if "default" in field else "**required**"


def _kind(field: Schema) -> str:
    """Return what values a key takes, in a few words."""
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(_kind(kind) for kind in field[several])
    if "$ref" in field:
        return "section"
    if "enum" in field or "const" in field:
        return " or ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if field.get("type") == "array" and "items" in field:
        return f"list of: {_kind(field['items'])}"
    if field.get("type") == "array":
        return " , ".join(["list", *(_kind(item) for item in field.get("prefixItems", ()))])
    bounds = [text.format(field[key]) for key, text in _BOUNDS.items() if key in field and field[key] not in _NO_BOUNDS]
    words = {"string": "text", "object": "mapping", "boolean": "`true` or `false`", "null": "`null`"}
    kind = str(field.get("type", "any"))
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()
