"""Runs in forked children: the parent imports the engine once, and a run pays for nothing but itself.

A child is one rank of its own. The parent must not have computed with several threads, which a fork does not survive.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from typing import Any

ENGINE = ("heterotune.worker", "heterotune.runner", "heterotune.data.overview", "transformers.models.llama", "datasets")
FORK = multiprocessing.get_context("fork")


def import_engine() -> None:
    """Import what a run needs, in a process that computes with one thread."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HETEROTUNE_NUM_RANKS": "1"}
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch

    torch.set_num_threads(1)
    for module in ENGINE:
        importlib.import_module(module)


def run_forked(
    tasks: Iterable[tuple[Any, Callable[[], int]]], num_jobs: int, on_end: Callable[[Any, int, float], None]
) -> None:
    """Run tasks in children, so many at a time, in their order.

    Args:
        tasks: A name and what a child does; its value is the child's exit code.
        num_jobs: Children at a time.
        on_end: Called with name, exit code and seconds after each.
    """
    running: dict[int, tuple[Any, ForkProcess, float]] = {}
    left = iter(tasks)
    while True:
        while len(running) < num_jobs and (task := next(left, None)) is not None:
            name, work = task
            child = FORK.Process(target=_leave_with, args=(work,))
            child.start()
            running[child.sentinel] = name, child, time.perf_counter()
        if not running:
            return
        for sentinel in wait(list(running)):
            name, child, started = running.pop(sentinel)
            child.join()
            on_end(name, child.exitcode, time.perf_counter() - started)


def _leave_with(work: Callable[[], int]) -> None:
    os._exit(work())  # nothing of the parent's is to be ended twice
