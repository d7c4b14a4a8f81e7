"""One job a run folder, the holder named, a lock left behind taken over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from heterotune.errors import LaunchError
from heterotune.run_lock import locked


def hold(folder: Path, **changes: object) -> None:
    """Write the lock of this very process, with changes."""
    started = psutil.Process().create_time()
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": started, "job": "", "since": "noon"}
    (folder / "lock").write_text(json.dumps(mine | changes))


def test_the_lock_is_there_inside_and_gone_after(tmp_path: Path) -> None:
    with locked(tmp_path, {}):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path, {}):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_job_is_refused_and_told_the_holder(tmp_path: Path) -> None:
    hold(tmp_path, job="77")
    told = rf"process {os.getpid()} on {socket.gethostname()} of job 77 works in this run folder since noon"
    with pytest.raises(LaunchError, match=told), locked(tmp_path, {}, patience_seconds=0.1):
        pass
    assert json.loads((tmp_path / "lock").read_text())["job"] == "77"


def test_a_holder_that_died_here_loses_it(tmp_path: Path) -> None:
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    hold(tmp_path, pid=died.pid)
    with locked(tmp_path, {}):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_another_process_with_the_number_of_the_holder_is_not_the_holder(tmp_path: Path) -> None:
    hold(tmp_path, process_started=1.0)
    with locked(tmp_path, {}):
        pass


def test_a_holder_on_another_host_keeps_it(tmp_path: Path) -> None:
    hold(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(LaunchError, match=r"process 1 on elsewhere works .* if it is gone for good, remove .*lock"):
        with locked(tmp_path, {"SLURM_JOB_ID": "77"}):
            pass


def test_a_requeued_job_takes_over_its_own(tmp_path: Path) -> None:
    hold(tmp_path, host="elsewhere", job="77")
    with locked(tmp_path, {"SLURM_JOB_ID": "77"}):
        assert json.loads((tmp_path / "lock").read_text())["job"] == "77"


@pytest.mark.parametrize("content", ["", "[]", '{"host": "a"}'])
def test_an_unreadable_lock_holds_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    with locked(tmp_path, {}):
        pass


def test_a_holder_that_is_leaving_is_waited_for(tmp_path: Path) -> None:
    leaving = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    hold(tmp_path, pid=leaving.pid, process_started=psutil.Process(leaving.pid).create_time())
    threading.Timer(0.5, leaving.stdin.close).start()
    with locked(tmp_path, {}):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    leaving.wait()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cannot be written to \(No such file or directory\). Free space"):
        with locked(tmp_path / "gone", {}):
            pass
