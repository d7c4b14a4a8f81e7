"""One task at a time in a thread; what it raises comes back."""

from __future__ import annotations

import threading

import pytest

from heterotune.background import Background


def test_tasks_run_in_order_while_the_caller_goes_on() -> None:
    background, may_end, done = Background("test"), threading.Event(), []
    background.start(lambda: may_end.wait(10) and done.append(1))
    assert background.is_busy and done == []
    may_end.set()
    background.start(lambda: done.append(2))
    background.wait()
    assert done == [1, 2] and not background.is_busy


@pytest.mark.parametrize("then", [Background.wait, lambda background: background.start(lambda: None)])
def test_what_a_task_raises_is_raised_once_where_it_was_given(then) -> None:
    background = Background("test")
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        then(background)
    background.wait()
