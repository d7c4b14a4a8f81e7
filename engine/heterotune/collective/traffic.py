"""What the simulator itself moved between ranks. Never mixed with the ledger, which says what clients would send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Moved:
    """One rank's traffic under one verb.

    Attributes:
        num_calls: Calls of the verb.
        sent_bytes: Payload that this rank gave to the library for others.
        received_bytes: Payload that this rank got from the library.
        seconds: Wall time inside the verb, waiting for other ranks included.
    """

    num_calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0


class Traffic:
    """A rank's traffic by verb, since the last `drain`."""

    def __init__(self) -> None:
        self.observer: Callable[[str, float], None] | None = None
        """Is told the verb and seconds of each call when it is done."""
        self._moved: dict[str, Moved] = {}

    def add(self, verb: str, *, sent_bytes: int, received_bytes: int, seconds: float) -> None:
        """Count one call."""
        moved = self._moved.setdefault(verb, Moved())
        moved.num_calls += 1
        moved.sent_bytes += sent_bytes
        moved.received_bytes += received_bytes
        moved.seconds += seconds
        if self.observer is not None:
            self.observer(verb, seconds)

    @contextmanager
    def counted(self, verb: str) -> Iterator[Moved]:
        """Count what runs inside as one call; the body says how many bytes it gave and got."""
        moved, started = Moved(), time.perf_counter()
        yield moved
        seconds = time.perf_counter() - started
        self.add(verb, sent_bytes=moved.sent_bytes, received_bytes=moved.received_bytes, seconds=seconds)

    def drain(self) -> dict[str, Moved]:
        """Return what each verb moved since the last call, in order of first use, and begin anew."""
        moved, self._moved = self._moved, {}
        return moved


def note_one_way(moved: Moved, num_bytes: int, *, gives: bool, num_ranks: int) -> None:
    """Note bytes that some ranks give and the others get; one rank alone moves nothing."""
    if num_ranks > 1:
        moved.sent_bytes += num_bytes * gives
        moved.received_bytes += num_bytes * (not gives)
