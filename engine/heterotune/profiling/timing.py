"""Wall time by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall time by the name of a phase; phases may nest, and each counts in full."""

    def __init__(self, now_seconds: Callable[[], float] = time.perf_counter) -> None:
        """Begin with no phase.

        Args:
            now_seconds: The clock; another one only in tests.
        """
        self._now_seconds = now_seconds
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a phase, also when it raises."""
        started = self._now_seconds()
        try:
            yield
        finally:
            self.add(name, self._now_seconds() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere to a phase."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def drain(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, in order of first appearance, and begin anew."""
        seconds, self._seconds = self._seconds, {}
        return seconds
