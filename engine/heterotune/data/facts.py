"""What partitions and reports need to know of every document, without its text: a few numbers each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from heterotune.data.document import Document


@dataclass(frozen=True)
class Codes:
    """A property of every document, as numbers into its sorted names; int32 (N,)."""

    names: tuple[str, ...]
    of: np.ndarray

    def present(self, documents: np.ndarray) -> tuple[str, ...]:
        """Return the names that some documents have, sorted."""
        return tuple(self.names[code] for code in np.unique(self.of[documents]).tolist())

    def take(self, documents: np.ndarray) -> Codes:
        """Return the property of some documents only; names that none of them has are left out."""
        present, codes = np.unique(self.of[documents], return_inverse=True)
        return Codes(tuple(self.names[code] for code in present.tolist()), codes.astype(np.int32))

    def members(self) -> list[np.ndarray]:
        """Return for each name the documents that have it, in corpus order."""
        order = np.argsort(self.of, kind="stable")
        ends = np.cumsum(np.bincount(self.of, minlength=len(self.names)))
        return np.split(order, ends[:-1]) if len(self.names) else []


@dataclass(frozen=True)
class Facts:
    """Of every document of a corpus, in its order.

    Attributes:
        keys: Natural owners.
        labels: Classes, or what a partition by label divides; "" = none.
        strata: What a partition by label divides.
        tasks: Tasks.
        class_names: Labels of documents that have choices: the classes of classification.
        num_characters: Length, int64 (N,).
    """

    keys: Codes
    labels: Codes
    strata: Codes
    tasks: Codes
    class_names: tuple[str, ...]
    num_characters: np.ndarray

    def __len__(self) -> int:
        return len(self.num_characters)

    def take(self, documents: np.ndarray) -> Facts:
        """Return the facts of some documents, int64 numbers in corpus order."""
        if len(documents) == len(self):
            return self
        codes = [codes.take(documents) for codes in (self.keys, self.labels, self.strata, self.tasks)]
        return Facts(*codes, self.class_names, self.num_characters[documents])


@dataclass
class FactsWriter:
    """Collects facts while documents go by."""

    classes: set[str] = field(default_factory=set)
    _names: tuple[dict[str, int], ...] = field(default_factory=lambda: ({}, {}, {}, {}))
    _codes: tuple[list[np.ndarray], ...] = field(default_factory=lambda: ([], [], [], []))
    _characters: list[np.ndarray] = field(default_factory=list)

    def add(self, documents: Sequence[Document]) -> None:
        """Note some documents, in order."""
        properties = [
            (document.key, document.label or "", document.stratum or document.label or "", document.task)
            for document in documents
        ]
        for names, codes, values in zip(self._names, self._codes, zip(*properties, strict=True), strict=False):
            codes.append(np.array([names.setdefault(value, len(names)) for value in values], dtype=np.int32))
        self._characters.append(np.array([document.num_characters for document in documents], dtype=np.int64))
        self.classes.update(document.label for document in documents if document.choices and document.label)

    def facts(self) -> Facts:
        """Return what was noted."""
        codes = [_sorted(names, parts) for names, parts in zip(self._names, self._codes, strict=True)]
        return Facts(*codes, tuple(sorted(self.classes)), np.concatenate([np.empty(0, np.int64), *self._characters]))


def facts_of(documents: Iterable[Document]) -> Facts:
    """Return the facts of documents in memory."""
    writer = FactsWriter()
    for portion in _portions(documents, 10_000):
        writer.add(portion)
    return writer.facts()


def _portions(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    portion: list[Document] = []
    for document in documents:
        portion.append(document)
        if len(portion) == size:
            yield portion
            portion = []
    if portion:
        yield portion


def _sorted(names: dict[str, int], parts: Sequence[np.ndarray]) -> Codes:
    """Number the names anew in their sorted order."""
    in_order = sorted(names)
    renumber = np.empty(len(names), dtype=np.int32)
    for number, name in enumerate(in_order):
        renumber[names[name]] = number
    codes = np.concatenate([np.empty(0, np.int32), *parts])
    return Codes(tuple(in_order), renumber[codes] if len(names) else codes)
