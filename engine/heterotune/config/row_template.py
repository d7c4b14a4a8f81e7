"""Prompt templates written in a run file: text with {field} in it, and nothing of Python's format language beyond."""

from __future__ import annotations

import string
from collections.abc import Mapping

NAMED_TEMPLATES = ("auto", "plain", "alpaca", "chat")


def template_problem(template: str) -> str | None:
    """Say what is wrong with `data.template`; None = it is a named one, or a text with plain placeholders."""
    if template in NAMED_TEMPLATES:
        return None
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"template: {error}. Write {{field}} for a field, {{{{ and }}}} for braces."
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        named = ", ".join(NAMED_TEMPLATES)
        return f"template has no {{field}} in it. Give one of {named}, or a text with the name of a field in braces."
    if any(not name or spec or conversion for _, name, spec, conversion in parts if name is not None):
        return "template: a placeholder is a field's name in braces and nothing else, as {question}. Correct it."
    return None


def placeholders(template: str) -> tuple[str, ...]:
    """Return the fields that a template names, each once, in order."""
    return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders replaced. Values are not read as templates."""
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else values[name]) for text, name, _, _ in parts)
