"""Guess what a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that reads most like `word`, or None if none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "Did you mean x?", or the list of what there is. Not for an empty list of choices."""
    choices = sorted(choices)
    match = nearest(word, choices)
    return f"Did you mean {match}?" if match else f"There is: {', '.join(choices)}."
