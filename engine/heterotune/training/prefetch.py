"""Prepare the next chunk's data while the present one trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(items: Sequence[Item], make: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
    """Yield each item with what was made for it; one item ahead is made in a thread.

    Args:
        items: In the order of use.
        make: Must not depend on when it is called. What it raises is raised here.
    """
    if not items:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        ahead = pool.submit(make, items[0])
        for place, item in enumerate(items):
            made = ahead.result()
            if place + 1 < len(items):
                ahead = pool.submit(make, items[place + 1])
            yield item, made
