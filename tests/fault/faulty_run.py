"""`heterotune run` whose ranks are faulty: python faulty_run.py FAULT.json, then the arguments of `heterotune`."""

from __future__ import annotations

import sys
from pathlib import Path

from heterotune import cli
from heterotune.launching import local
from heterotune.launching.mpirun import WORKER_MODULE

_DRIVER = Path(__file__).with_name("faulty_worker.py")
_worker_command = local.worker_command


def _faulty_command(*arguments, **options) -> list[str]:
    """Return the ranks' command with the driver instead of the worker module."""
    command = _worker_command(*arguments, **options)
    place = command.index(WORKER_MODULE)
    return [*command[: place - 1], str(_DRIVER), fault_file, *command[place + 1 :]]


fault_file = sys.argv.pop(1)
local.worker_command = _faulty_command
cli.main()
