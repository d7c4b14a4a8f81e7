"""Turn pydantic's errors into lines that name key, value, rule and a way out."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from heterotune.config.methods import METHODS
from heterotune.config.nearest import nearest

Path = tuple[Any, ...]

_MOST_CHOICES = 10  # that are listed, rather than the nearest one
_MOST_PLACES = 3  # at which a key that stands in the wrong place is said to belong
_MOST_ERRORS = 200  # explaining takes time, and a hostile file has any number of them

# pydantic's error type -> what is wrong, and what would be right. Braces are filled from the error's context.
_RULES = {
    "int_type": ("is not an integer", "an integer"),
    "float_type": ("is not a number", "a number"),
    "finite_number": ("is not a finite number", "a finite number"),
    "bool_type": ("is not true or false", "true or false"),
    "string_type": ("is not text", "text, in quotes if it looks like a number"),
    "path_type": ("is not a path", "a path, in quotes if it looks like a number"),
    "tuple_type": ("is not a list", "a list"),
    "model_type": ("is not a mapping", "a mapping of keys to values"),
    "greater_than_equal": ("is too small", "at least {ge}"),
    "greater_than": ("is too small", "more than {gt}"),
    "less_than_equal": ("is too large", "at most {le}"),
    "less_than": ("is too large", "less than {lt}"),
    "string_too_short": ("is empty", "at least {min_length} character"),
    "string_too_long": ("is too long", "at most {max_length} characters"),
    "too_short": ("has too few entries", "at least {min_length}"),
    "too_long": ("has too many entries", "at most {max_length}"),
    "literal_error": ("is not a choice", "{expected}"),
    "string_pattern_mismatch": (
        "has characters that do not fit a file name",
        "only letters, digits, dots, dashes and underscores, no dot first",
    ),
}


def validation_problems(error: ValidationError, data: Any, model: type[BaseModel]) -> list[str]:
    """Explain a validation error.

    Args:
        error: What pydantic raised.
        data: The mapping that was validated.
        model: The model it was validated against.

    Returns:
        One line per key that is wrong, in pydantic's order. The several errors of one value that could be of several
        kinds ("auto" or an integer) become one line.
    """
    items_by_path: dict[Path, list[dict]] = {}
    items = error.errors(include_url=False)
    for item in items[:_MOST_ERRORS]:
        items_by_path.setdefault(_path_in(item, data), []).append(item)
    problems, unread = [], len(items) - _MOST_ERRORS
    for path, items in items_by_path.items():
        has_inner = any(len(other) > len(path) and other[: len(path)] == path for other in items_by_path)
        if not (has_inner and len(path) > 0):
            problems += _explain(path, items, model)
    return problems if unread <= 0 else [*problems, f"{unread} more values are wrong. Correct these first."]


def dotted(path: Path) -> str:
    """Write a path as the user would: fleet.0.clients."""
    return ".".join(str(part) if re.fullmatch(r"[\w-]{1,60}", str(part)) else shown(part) for part in path)


def shown(value: Any) -> str:
    """Show a value on one line of bounded length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxstring, shortener.maxother = 2, 60, 60
    try:
        text = shortener.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _path_in(item: dict, data: Any) -> Path:
    """Keep what the user wrote of pydantic's location: it also names the branch of a union."""
    path: list[Any] = []
    for number, part in enumerate(item["loc"]):
        is_last = number == len(item["loc"]) - 1
        if isinstance(data, dict) and part in data or isinstance(data, list) and part in range(len(data)):
            path.append(part)
            data = data[part]
        elif is_last and item["type"] == "missing":
            path.append(part)
    return tuple(path)


def _explain(path: Path, items: list[dict], model: type[BaseModel]) -> list[str]:
    """Write the lines of one key."""
    item = items[0]
    start = f"{dotted(path)} = {shown(item['input'])}"
    if item["type"] == "cross_field":
        return item["ctx"]["problems"].split("\n")
    if item["type"] == "value_error":
        text = str(item["ctx"]["error"])
        return [f"{dotted(path)}: {text}" if isinstance(item["input"], dict | BaseModel) else f"{start} {text}"]
    if item["type"] == "missing":
        return [f"{dotted(path)} is missing. Add it: {_description(path, model)}"]
    if item["type"] in ("extra_forbidden", "invalid_key"):
        return [f"{dotted(path)} is not a known key. {_other_key(path, model)}"]
    if not path:
        return [f"A run is a mapping of keys to values, not {shown(item['input'])}. Write name:, rounds:, fleet: ..."]
    if any(each["type"] not in _RULES for each in items):
        return [f"{start} is refused: {item['msg']}. It should be: {_description(path, model)}"]
    if item["type"] == "literal_error" and (match := _near_choice(item)):
        return [f"{start} is not a choice. Did you mean {match}?"]
    filled = [[text.format(**each.get("ctx", {})) for text in _RULES[each["type"]]] for each in items]
    return [f"{start} {filled[0][0]}. Give {', or '.join(remedy for _, remedy in filled)}."]


def _near_choice(item: dict) -> str | None:
    """Return the choice that a misspelt one was meant to be, where there are so many that nobody reads them all."""
    choices = re.findall(r"'([^']+)'", item["ctx"]["expected"])
    return nearest(str(item["input"]), choices) if len(choices) > _MOST_CHOICES else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _models_at(path: Path, model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that may stand at a path."""
    models = [model]
    for part in path:
        if not isinstance(part, int):
            infos = [each.model_fields[part] for each in models if part in each.model_fields]
            if infos:  # else the part is a name that the user gave: a mapping's key
                models = [inner for info in infos for inner in _models_in(info.annotation)]
    return models


def _description(path: Path, model: type[BaseModel]) -> str:
    """Return the docstring line of the key at a path."""
    keys = [part for part in path if isinstance(part, str)]
    for each in _models_at(tuple(keys[:-1]), model):
        if keys and keys[-1] in each.model_fields:
            return " ".join((each.model_fields[keys[-1]].description or "").split())
    return ""


def _other_key(path: Path, model: type[BaseModel]) -> str:
    """Suggest the key that was meant: a near one here, the same one elsewhere, or all there are."""
    word = str(path[-1])
    here = [key for each in _models_at(path[:-1], model) for key in each.model_fields if key != word]
    elsewhere = [f"{section}.{word}" for section in model.model_fields if word in _keys_of(section, model)]
    if match := nearest(word, here):
        return f"Did you mean {match}?"
    if elsewhere:  # most strategies have the same few keys
        return f"Did you mean {' or '.join(elsewhere[:_MOST_PLACES])}?"
    known = [key for key in here if key not in METHODS] + ["strategies' own sections"] * any(k in METHODS for k in here)
    return f"Known here: {', '.join(known)}."


def _keys_of(section: str, model: type[BaseModel]) -> set[str]:
    """Return the keys of a top-level section."""
    return {key for each in _models_at((section,), model) for key in each.model_fields}
