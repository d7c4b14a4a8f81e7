"""When a rank did what: spans of the round at work, for a trace. A span costs a microsecond and is kept one round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PHASE = "phase"
COLLECTIVE = "collective"


class Spans:
    """Spans of one rank since the last `drain`."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Begin with no span.

        Args:
            now_ns: The clock, the same on all ranks as far as their hosts agree; another one only in tests.
        """
        self._now_ns = now_ns
        self._spans: list[dict[str, Any]] = []

    @contextmanager
    def span(self, name: str, facts: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Note when what runs inside began and how long it took, also when it raises."""
        start_ns = self._now_ns()
        try:
            yield
        finally:
            self._add(name, PHASE, start_ns, self._now_ns(), facts or {})

    def waited(self, verb: str, seconds: float) -> None:
        """Note a collective operation that has just ended, waiting for other ranks included."""
        now_ns = self._now_ns()
        self._add(verb, COLLECTIVE, now_ns - int(seconds * 1e9), now_ns, {})

    def drain(self) -> list[dict[str, Any]]:
        """Return {"name", "category", "start_us", "duration_us", "facts"} of each span, and begin anew."""
        spans, self._spans = self._spans, []
        return spans

    def _add(self, name: str, category: str, start_ns: int, end_ns: int, facts: Mapping[str, Any]) -> None:
        self._spans.append(
            {
                "name": name,
                "category": category,
                "start_us": start_ns // 1000,
                "duration_us": (end_ns - start_ns) // 1000,
                "facts": dict(facts),
            }
        )
