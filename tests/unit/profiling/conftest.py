"""What the process held before a test does not change what the test measures of the process."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _nothing_is_collected_while_measuring() -> Iterator[None]:
    """Collect the garbage of earlier tests now: in the middle of a phase it would hide what the phase adds."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def resident_block() -> Callable[[int], AbstractContextManager[None]]:
    """Return what makes so many bytes resident for a while.

    They come from the system and go back there: a heap with room left by earlier tests would grow by nothing.
    """

    @contextmanager
    def block_of(num_bytes: int) -> Iterator[None]:
        with mmap.mmap(-1, num_bytes) as block:
            np.frombuffer(block, dtype=np.uint8).fill(1)
            yield

    return block_of
