import threading

import pytest

from heterotune.collective.watchdog import watchdog


def test_a_body_that_is_done_in_time_ends_nothing():
    ended = threading.Event()
    with watchdog(600.0, "waiting", ended.set):
        pass
    assert not ended.is_set()
    assert not any(
        isinstance(thread, threading.Timer) and not thread.finished.is_set() for thread in threading.enumerate()
    )


def test_a_body_that_takes_too_long_ends_the_job_with_a_message(capsys):
    ended = threading.Event()
    with watchdog(0.01, "rank 3: barrier", ended.set):
        assert ended.wait(30.0)
    message = "rank 3: barrier was not done after 0.01 seconds: another rank is stuck or gone; ending the job"
    assert message in capsys.readouterr().err


def test_no_limit_and_errors_pass_through():
    with pytest.raises(ZeroDivisionError), watchdog(None, "waiting", lambda: None):
        _ = 1 / 0
