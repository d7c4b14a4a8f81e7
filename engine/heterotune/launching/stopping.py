"""A run is asked to stop: by a signal to any of its ranks, or by a file `stop` in its run folder.

The file works under every launcher, also where signals reach only the batch script.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


def forget_earlier_request(run_path: Path) -> None:
    """Remove a file from before this job: it was meant for another. One process calls this, before ranks watch."""
    (run_path / STOP_FILE).unlink(missing_ok=True)


class StopRequest:
    """Whether somebody wants this run to stop as soon as it can: when the chunks in progress are finished."""

    def __init__(self) -> None:
        self._wanted = self._told_others = False
        self._file: Path | None = None

    def listen(self) -> None:
        """Take a first SIGUSR1 or SIGTERM as a wish to stop; a second SIGTERM ends the process as usual."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def watch(self, run_path: Path) -> None:
        """Look for the file in a run folder, too, and make it for the other ranks when this one gets a signal."""
        self._file = run_path / STOP_FILE

    def wanted(self) -> bool:
        """Return whether the run should stop."""
        if self._wanted and self._file is not None and not self._told_others:
            self._told_others = True
            with suppress(OSError):  # a full disk: the others hear of it at the end of the round
                self._file.touch()
        self._wanted = self._wanted or (self._file is not None and self._file.exists())
        return self._wanted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
