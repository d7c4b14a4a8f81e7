"""Fields of rows of text: the text, its first line, and what a regular expression finds in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from heterotune.errors import DataError

_PORTION = 10_000  # rows that are searched at once


class FirstLines(Sequence[str]):
    """The first line of each text, cut out when it is asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: Any) -> Any: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int):
            return _first_line(self._texts[place])
        return [_first_line(text) for text in values_at(self._texts, place)]


def values_at(values: Sequence[Any], places: Any) -> list[Any]:
    """Return some values of a column, which may be a list or one of the `datasets` library's on disk."""
    if isinstance(places, slice):
        return list(values[places])
    if isinstance(values, list | tuple):
        return [values[place] for place in places]
    return list(values[[int(place) for place in places]])


def text_table_columns(texts: Sequence[str], pattern: str | None, *, setting: str) -> Mapping[str, Sequence[Any]]:
    """Return the columns of rows of text: `text`, `first_line`, and one for each named group of `pattern`.

    Args:
        texts: The rows.
        pattern: An RE2 expression, which takes linear time whatever it is; None = no further fields.
        setting: Key of the run file that names the source; for messages.

    Raises:
        DataError: If the pattern is no RE2 expression or has no named group.
    """
    columns = {"text": texts, "first_line": FirstLines(texts)}
    return columns if pattern is None else columns | dict(_found(texts, pattern, setting))


def _found(texts: Sequence[str], pattern: str, setting: str) -> Iterator[tuple[str, list[str | None]]]:
    """Yield each named group with what it matched in every row; None where the pattern is not found."""
    import pyarrow
    import pyarrow.compute

    found = []
    try:
        for start in range(0, max(1, len(texts)), _PORTION):
            portion = pyarrow.array(list(texts[start : start + _PORTION]), pyarrow.large_string())
            found += pyarrow.compute.extract_regex(portion, pattern).to_pylist()
    except pyarrow.ArrowInvalid as error:
        cause = " ".join(str(error).split())
        raise DataError(
            f"{setting}.pattern = {pattern}: {cause}. Write an RE2 expression such as (?P<name>.+)."
        ) from error
    names = pyarrow.compute.extract_regex(pyarrow.array([], pyarrow.string()), pattern).type
    if not names.num_fields:
        raise DataError(
            f"{setting}.pattern = {pattern}: it has no named group. Write (?P<name>...) around what is wanted."
        )
    for i in range(names.num_fields):
        name = names.field(i).name
        yield name, [None if row is None else row[name] for row in found]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()
