"""A run is asked to stop: by a signal to any of its ranks, or by a file `stop` in its run folder.

The file works under every launcher, also where signals reach only the batch script.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopRequest:
    """Whether somebody wants this run to stop after the round it is in."""

    def __init__(self) -> None:
        self._wanted = False
        self._file: Path | None = None

    def listen(self) -> None:
        """Take a first SIGUSR1 or SIGTERM as a wish to stop; a second SIGTERM ends the process as usual."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def watch(self, run_path: Path) -> None:
        """Look for the file in a run folder, too (root only: all ranks see the same folder)."""
        self._file = run_path / STOP_FILE
        self._file.unlink(missing_ok=True)  # one from before this job was meant for another

    def wanted(self) -> bool:
        """Return whether the run should stop."""
        self._wanted = self._wanted or (self._file is not None and self._file.exists())
        return self._wanted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
