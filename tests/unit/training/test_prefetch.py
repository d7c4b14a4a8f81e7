from __future__ import annotations

import threading

import pytest

from heterotune.training.prefetch import prefetch


def test_items_come_in_order_with_what_was_made():
    assert list(prefetch([1, 2, 3], lambda item: item * 10)) == [(1, 10), (2, 20), (3, 30)]
    assert list(prefetch([], lambda item: item)) == []


def test_the_next_item_is_made_while_the_present_one_is_used():
    second_made = threading.Event()

    def make(item):
        if item == 2:
            second_made.set()
        return item

    stream = prefetch([1, 2], make)
    next(stream)
    assert second_made.wait(10)
    assert list(stream) == [(2, 2)]


def test_what_making_raises_comes_out_where_the_item_is_used():
    def make(item):
        if item == 2:
            raise OSError("no such row")
        return item

    stream = prefetch([1, 2, 3], make)
    assert next(stream) == (1, 1)
    with pytest.raises(OSError, match="no such row"):
        next(stream)
