"""Writing to disk while the ranks train on: one task at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs tasks one after the other. What a task raises is raised by the next call from the thread that gave it."""

    def __init__(self, name: str) -> None:
        """Begin with nothing to do.

        Args:
            name: Of the thread.
        """
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._task: Future[object] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last task still runs."""
        return self._task is not None and not self._task.done()

    def start(self, task: Callable[[], object]) -> None:
        """Run a task when the one before it has ended.

        Args:
            task: Must own all that it reads: the caller goes on at once.
        """
        self.wait()
        self._task = self._pool.submit(task)

    def wait(self) -> None:
        """Return when nothing is left to do."""
        task, self._task = self._task, None
        if task is not None:
            task.result()
