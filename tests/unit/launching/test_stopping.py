"""Asking a run to stop: signals and a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterotune.launching.stopping import STOP_SIGNALS, StopRequest, forget_earlier_request


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nobody_asked(stop: StopRequest, tmp_path: Path) -> None:
    stop.watch(tmp_path)
    assert not stop.wanted()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal(stop: StopRequest, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert stop.wanted()


def test_a_file_that_appears(stop: StopRequest, tmp_path: Path) -> None:
    stop.watch(tmp_path)
    (tmp_path / "stop").touch()
    assert stop.wanted()


def test_a_file_from_an_earlier_job(stop: StopRequest, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    forget_earlier_request(tmp_path)
    stop.watch(tmp_path)
    assert not stop.wanted()


def test_a_signal_to_one_rank_reaches_the_others(stop: StopRequest, tmp_path: Path) -> None:
    others = StopRequest()
    for request in (stop, others):
        request.watch(tmp_path)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.wanted() and others.wanted()


def test_a_full_disk_does_not_keep_a_rank_from_stopping(stop: StopRequest, tmp_path: Path) -> None:
    stop.watch(tmp_path / "missing")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.wanted()


def test_a_second_sigterm_ends_the_process() -> None:
    program = (
        "import os, signal\n"
        "from heterotune.launching.stopping import StopRequest\n"
        "stop = StopRequest()\n"
        "stop.listen()\n"
        "for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):\n"
        "    os.kill(os.getpid(), number)\n"
        "    print(stop.wanted(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    source = str(Path(__file__).parents[3] / "engine")
    environ = {**os.environ, "PYTHONPATH": source}
    ended = subprocess.run([sys.executable, "-c", program], env=environ, timeout=60, capture_output=True, text=True)
    assert (ended.stdout.split(), ended.returncode) == (["True"] * 3, -signal.SIGTERM)
