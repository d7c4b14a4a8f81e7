"""One rank of a run in which something goes wrong: python faulty_worker.py FAULT.json, then the worker's arguments.

FAULT.json is a `points.FaultPoint`. Nothing of the engine knows about it: phases and training are patched from here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heterotune import worker
from heterotune.chunk_training import ChunkTraining
from heterotune.journal import Journal


def main() -> int:
    """Arm the fault, then run the worker."""
    fault = json.loads(Path(sys.argv[1]).read_text())
    if fault["what"] == "client raises":
        _raise_in_a_client(fault)
    else:
        _act_in_a_phase(fault, _ACTIONS[fault["what"]])
    return worker.main(sys.argv[2:])


def _act_in_a_phase(fault: dict[str, Any], act: Callable[[dict[str, Any]], None]) -> None:
    """Act a moment after the rank entered the phase of the round, whatever it does then."""
    phase = Journal.phase
    done = threading.Event()

    @contextmanager
    def faulty_phase(self: Journal, name: str, *arguments: Any, **options: Any):
        with phase(self, name, *arguments, **options):
            is_here = self.channel.mpi_rank == fault["mpi_rank"] and self._round_number == fault["round"]
            if is_here and name == fault["phase"] and not done.is_set():
                done.set()
                timer = threading.Timer(fault["delay_seconds"], act, args=(fault,))
                timer.daemon = True
                timer.start()
                if fault["waits"]:
                    timer.join()
            yield

    Journal.phase = faulty_phase


def _raise_in_a_client(fault: dict[str, Any]) -> None:
    """The first client that the rank trains in the round raises."""
    train = ChunkTraining.train

    def faulty_train(self: ChunkTraining, round_number: int, chunk, prepared):
        if self._journal.channel.mpi_rank == fault["mpi_rank"] and round_number == fault["round"]:
            _told(fault)
            raise FloatingPointError(f"client {chunk.clients[0].client_id}: injected fault in round {round_number}")
        return train(self, round_number, chunk, prepared)

    ChunkTraining.train = faulty_train


def _told(fault: dict[str, Any]) -> None:
    """Leave the moment for whoever measures how long the job took to end."""
    Path(fault["happened"]).touch()


def _kill_rank(fault: dict[str, Any]) -> None:
    _told(fault)
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_rank(fault: dict[str, Any]) -> None:
    _told(fault)
    os.kill(os.getpid(), signal.SIGSTOP)


def _kill_launcher(fault: dict[str, Any]) -> None:
    _told(fault)
    os.kill(os.getppid(), signal.SIGKILL)


def _fill_disk(fault: dict[str, Any]) -> None:
    """Write a file that leaves a drawn number of bytes on the run folder's file system."""
    path = Path(fault["filler"])
    disk = os.statvfs(path.parent)
    path.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - fault["left_bytes"])))
    _told(fault)


_ACTIONS = {
    "SIGKILL of a rank": _kill_rank,
    "SIGKILL of mpirun": _kill_launcher,
    "SIGSTOP of a rank": _stop_rank,
    "full disk": _fill_disk,
    "checkpoint truncated": _kill_rank,
    "checkpoint bit flipped": _kill_rank,
}


if __name__ == "__main__":
    sys.exit(main())
