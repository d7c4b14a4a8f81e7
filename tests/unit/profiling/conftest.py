"""What the process held before a test does not change what the test measures of the process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_collected_while_measuring() -> Iterator[None]:
    """Collect the garbage of earlier tests now: in the middle of a phase it would hide what the phase adds."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
