"""A limit on how long a rank waits for the others."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watchdog(seconds: float | None, what: str, end_job: Callable[[], object]) -> Iterator[None]:
    """End the job if the body is not done in time; the message and all tracebacks go to the standard error stream.

    Args:
        seconds: The limit; None waits for ever.
        what: What is being waited for, for the message.
        end_job: Called from another thread when the time is over; must not return in real use.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, _expire, args=(seconds, what, end_job))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _expire(seconds: float, what: str, end_job: Callable[[], object]) -> None:
    """Say what hung and where, then end the job."""
    sys.stderr.write(f"{what} was not done after {seconds:g} seconds: another rank is stuck or gone; ending the job\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(sys.__stderr__)
    end_job()
